"""Finding a tag in a text that comes in pieces."""

from __future__ import annotations


class TagFinder:
    """Splits a text at the first occurrence of a tag; holds back what may begin one."""

    __slots__ = ("_held", "_tag")

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """The text before the tag and, once the tag is complete, what follows it, else None."""
        text = self._held + text
        before, tag, after = text.partition(self._tag)
        if tag:
            self._held = ""
            return before, after
        reach = range(min(len(self._tag) - 1, len(text)), 0, -1)
        held = next((n for n in reach if self._tag.startswith(text[-n:])), 0)
        cut = len(text) - held
        self._held = text[cut:]
        return text[:cut], None

    def finish(self) -> str:
        """What was held back; no tag came of it."""
        held, self._held = self._held, ""
        return held
