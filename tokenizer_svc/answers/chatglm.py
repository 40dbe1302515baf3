"""ChatGLM3: the first line of a turn is its metadata, a function's name or nothing.

A call is the name, then ```` ```python\\ntool_call(a=1)\\n``` ````. An answer can hold several
turns, each behind `<|assistant|>`; what a model writes before a call is such a turn.
Source: the tokenizer and the examples that were published with ChatGLM3-6B. Those run the call with
eval; here it is parsed, and its arguments must be literals.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from typing import Final

from tokenizer_svc.answers import python_calls
from tokenizer_svc.answers.pieces import Sink
from tokenizer_svc.answers.tags import TagFinder

TURN: Final = "<|assistant|>"
_FENCE: Final = "```"
_FENCE_LINE: Final = "\n" + _FENCE
_FUNCTION: Final = "tool_call"


class _State(enum.Enum):
    METADATA = enum.auto()
    CODE = enum.auto()
    TEXT = enum.auto()


class ChatGlmReader:
    """What turns out to be no call is text, with its metadata."""

    def __init__(self, sink: Sink, functions: Collection[str]) -> None:
        self._sink = sink
        self._functions = functions
        self._turn = TagFinder(TURN)
        self._state = _State.METADATA
        self._name = ""
        self._raw = ""
        self._code = ""
        sink.gap()

    def push(self, text: str) -> None:
        rest: str | None = text
        while rest:
            before, rest = self._turn.push(rest)
            self._in_turn(before)
            if rest is not None:
                self._end_turn()
                self._begin_turn()

    def finish(self) -> None:
        self._in_turn(self._turn.finish())
        self._end_turn()

    def _begin_turn(self) -> None:
        self._state = _State.METADATA
        self._raw = self._code = ""
        self._sink.gap()

    def _end_turn(self) -> None:
        if self._state is _State.CODE and self._is_call(self._code):
            return
        if self._state is not _State.TEXT:
            self._sink.text(self._raw + self._code)

    def _in_turn(self, text: str) -> None:
        if self._state is _State.METADATA:
            text = self._in_metadata(text)
        if text and self._state is _State.CODE:
            text = self._in_code(text)
        if text:
            self._sink.text(text)

    def _in_metadata(self, text: str) -> str:
        """What is left of the text once it is known what the first line is."""
        for position, character in enumerate(text):
            self._raw += character
            name = self._raw.strip()
            if character == "\n" and name in self._functions:
                self._name = name
                self._state = _State.CODE
                return text[position + 1 :]
            if character == "\n" or not any(f.startswith(name) for f in self._functions):
                self._state = _State.TEXT
                raw, self._raw = self._raw, ""
                return raw + text[position + 1 :]
        return ""

    def _in_code(self, text: str) -> str:
        """What follows the call, once the code block is closed."""
        start = max(0, len(self._code) - len(_FENCE_LINE) + 1)
        self._code += text
        while (at := self._code.find(_FENCE_LINE, start)) >= 0:
            end = at + len(_FENCE_LINE)
            if self._is_call(self._code[:end]):
                self._state = _State.TEXT
                return self._code[end:]
            # The fence is one inside of a text argument.
            start = end
        return ""

    def _is_call(self, code: str) -> bool:
        """Whether it is one; the sink has it then."""
        code = code.strip()
        if code.startswith(_FENCE):
            code = code.partition("\n")[2]
        arguments = python_calls.keyword_arguments(code.removesuffix(_FENCE), _FUNCTION)
        if arguments is None:
            return False
        self._sink.call(self._name, arguments)
        return True
