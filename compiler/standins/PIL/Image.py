# ruff: noqa: N999
"""Named by the compiler at start, and not used when a language model is converted."""
