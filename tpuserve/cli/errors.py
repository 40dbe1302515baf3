"""What ends a command with one line on stderr."""

from __future__ import annotations


class CommandError(Exception):
    """Its text is for the user: what is wrong and what to do about it."""
