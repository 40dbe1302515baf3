"""The one exception of the compiler's front end."""


class CompileError(Exception):
    """What the user asked for cannot be done; the text says why and what to do."""
