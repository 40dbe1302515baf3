"""What the readers of the formats have in common."""

from __future__ import annotations

from typing import Protocol


class Reader(Protocol):
    """Takes an answer's text and puts what it finds into its sink."""

    def push(self, text: str) -> None: ...

    def finish(self) -> None:
        """The text has ended: nothing is held back any longer."""
        ...
