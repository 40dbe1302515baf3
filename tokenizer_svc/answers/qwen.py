"""Calls in tags: `<tool_call>\\n{"name": "f", "arguments": {…}}\\n</tool_call>`, one or several.

Source: the chat templates of Qwen2.5 and Qwen3, and of the Hermes 2 Pro models before them.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from typing import Final

from tokenizer_svc.answers.call_object import CallObject, Outcome
from tokenizer_svc.answers.pieces import Sink
from tokenizer_svc.answers.tags import TagFinder

OPEN: Final = "<tool_call>"
CLOSE: Final = "</tool_call>"
_ARGUMENTS: Final = ("arguments", "parameters")


class _State(enum.Enum):
    TEXT = enum.auto()
    CALL = enum.auto()
    # The arguments went wrong after they had begun: all up to the closing tag is theirs.
    BROKEN = enum.auto()
    AFTER = enum.auto()


class QwenReader:
    """A call that goes wrong before its arguments begin is text, tags and all."""

    def __init__(self, sink: Sink, functions: Collection[str]) -> None:
        self._sink = sink
        self._functions = functions
        self._state = _State.TEXT
        self._open = TagFinder(OPEN)
        self._close = TagFinder(CLOSE)
        self._call = self._new_call()
        # The call as it was written, until its name is given.
        self._raw: list[str] = []
        self._tag = ""

    def push(self, text: str) -> None:
        rest: str | None = text
        while rest:
            if self._state is _State.TEXT:
                rest = self._in_text(rest)
            elif self._state is _State.CALL:
                rest = self._in_call(rest)
            elif self._state is _State.BROKEN:
                rest = self._in_broken(rest)
            else:
                rest = self._behind_call(rest)

    def finish(self) -> None:
        if self._state is _State.CALL and not self._call.opened:
            self._sink.text("".join(self._raw))
        elif self._state is _State.BROKEN:
            self._sink.arguments(self._close.finish())
        self._sink.text(self._open.finish() + self._tag)

    def _new_call(self) -> CallObject:
        return CallObject(self._sink, self._functions, argument_keys=_ARGUMENTS)

    def _in_text(self, text: str) -> str | None:
        before, after = self._open.push(text)
        self._sink.text(before)
        if after is not None:
            self._state = _State.CALL
            self._call = self._new_call()
            self._raw = [OPEN]
        return after

    def _in_call(self, text: str) -> str | None:
        call = self._call
        for position, character in enumerate(text):
            outcome = call.feed(character)
            if outcome is Outcome.DONE:
                self._state = _State.AFTER
                return text[position + 1 :]
            if outcome is Outcome.FAILED:
                self._fail()
                return text[position:]
            if not call.opened:
                self._raw.append(character)
        return None

    def _fail(self) -> None:
        if self._call.complete:
            self._state = _State.AFTER
        elif self._call.opened:
            self._state = _State.BROKEN
        else:
            self._sink.text("".join(self._raw))
            self._state = _State.TEXT

    def _in_broken(self, text: str) -> str | None:
        before, after = self._close.push(text)
        self._sink.arguments(before)
        if after is not None:
            self._sink.close_call()
            self._state = _State.TEXT
        return after

    def _behind_call(self, text: str) -> str | None:
        """Up to the closing tag; braces too many or too few are forgiven."""
        for position, character in enumerate(text):
            tag = self._tag + character
            if CLOSE.startswith(tag):
                self._tag = tag
                if tag == CLOSE:
                    self._tag = ""
                    self._state = _State.TEXT
                    return text[position + 1 :]
            elif self._tag or not (character.isspace() or character == "}"):
                held, self._tag = self._tag, ""
                self._state = _State.TEXT
                return held + text[position:]
        return None
