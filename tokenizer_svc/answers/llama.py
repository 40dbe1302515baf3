"""Calls without tags: the whole answer is `{"name": "f", "parameters": {…}}` or `[f(a=1), g()]`.

Several objects follow each other, with `;` between them. `<|python_tag|>` may come before; behind
other text it begins a call as well.
Source: Meta's prompt formats of Llama 3.1, 3.2 and 4.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from typing import Final

from tokenizer_svc.answers import python_calls
from tokenizer_svc.answers.call_object import CallObject, Outcome
from tokenizer_svc.answers.pieces import Sink
from tokenizer_svc.answers.tags import TagFinder

TAG: Final = "<|python_tag|>"
_ARGUMENTS: Final = ("parameters", "arguments")
_BETWEEN: Final = ";,"


class _State(enum.Enum):
    START = enum.auto()
    OBJECT = enum.auto()
    LIST = enum.auto()
    # The arguments went wrong after they had begun: the rest is theirs.
    BROKEN = enum.auto()
    TEXT = enum.auto()


class LlamaReader:
    """What turns out to be no call is text, apart from the tag."""

    def __init__(self, sink: Sink, functions: Collection[str]) -> None:
        self._sink = sink
        self._functions = functions
        self._state = _State.START
        self._tag = TagFinder(TAG)
        self._call = self._new_call()
        # What was read since the last call or text, to become text if no call comes of it.
        self._raw = ""
        self._called = False
        self._list = _BracketScanner()

    def push(self, text: str) -> None:
        rest: str | None = text
        while rest:
            if self._state is _State.TEXT:
                rest = self._in_text(rest)
            elif self._state is _State.BROKEN:
                self._sink.arguments(rest)
                return
            else:
                rest = self._before_text(rest)

    def finish(self) -> None:
        if self._state is _State.LIST:
            self._sink.text("".join(self._list.read))
        elif not self._called or self._raw.strip().strip(_BETWEEN):
            self._sink.text(self._raw)
        self._sink.text(self._tag.finish())

    def _new_call(self) -> CallObject:
        return CallObject(self._sink, self._functions, argument_keys=_ARGUMENTS)

    def _in_text(self, text: str) -> str | None:
        before, after = self._tag.push(text)
        self._sink.text(before)
        if after is not None:
            self._state = _State.START
            self._raw = ""
        return after

    def _before_text(self, text: str) -> str | None:
        take = {
            _State.START: self._at_start,
            _State.OBJECT: self._in_object,
            _State.LIST: self._in_list,
        }
        for position, character in enumerate(text):
            state = self._state
            if not take[state](character):
                # The character has not been taken.
                return self._as_text() + text[position:]
            if self._state is not state:
                return text[position + 1 :]
        return None

    def _as_text(self) -> str:
        """No call: go on as text, with what was read of it."""
        if self._state is _State.OBJECT and self._call.opened and not self._call.complete:
            self._state = _State.BROKEN
            return ""
        raw, self._raw = self._raw, ""
        if self._state is _State.LIST:
            raw = "".join(self._list.read)
        self._state = _State.TEXT
        return raw

    def _at_start(self, character: str) -> bool:
        visible = self._raw.lstrip().lstrip(_BETWEEN).lstrip()
        if visible:
            if not TAG.startswith(visible + character):
                return False
            self._raw += character
            if visible + character == TAG:
                self._raw = ""
            return True
        if character == "{":
            self._state = _State.OBJECT
            self._call = self._new_call()
            self._call.feed(character)
        elif character == "[":
            self._state = _State.LIST
            self._list = _BracketScanner()
            self._list.read.append(self._raw)
            self._list.feed(character)
        elif not (character.isspace() or character in _BETWEEN or TAG.startswith(character)):
            return False
        self._raw += character
        return True

    def _in_object(self, character: str) -> bool:
        outcome = self._call.feed(character)
        if self._call.opened:
            self._called = True
            self._raw = ""
        else:
            self._raw += character if outcome is not Outcome.FAILED else ""
        if outcome is Outcome.DONE:
            self._state = _State.START
        return outcome is not Outcome.FAILED

    def _in_list(self, character: str) -> bool:
        scanner = self._list
        if not scanner.feed(character):
            # An ordinary answer in brackets need not wait for the closing one.
            name = scanner.first_name()
            if name is None or any(f.startswith(name) for f in self._functions):
                return True
            scanner.read.pop()
            return False
        source = "".join(scanner.read).strip().lstrip(_BETWEEN)
        calls = python_calls.call_list(source, self._functions)
        if calls is None:
            scanner.read.pop()
            return False
        for name, arguments in calls:
            self._sink.call(name, arguments)
        self._called = True
        self._raw = ""
        self._state = _State.START
        return True


class _BracketScanner:
    """Tells where a Python list ends: counts brackets outside of strings.

    `read` joins to what was read.
    """

    def __init__(self) -> None:
        self.read: list[str] = []
        self._name_ended = False
        self._depth = 0
        self._quote = ""
        self._escaped = False

    def feed(self, character: str) -> bool:
        """Whether the character closes the first bracket."""
        self.read.append(character)
        if self._escaped:
            self._escaped = False
        elif self._quote:
            if character == "\\":
                self._escaped = True
            elif character == self._quote:
                self._quote = ""
        elif character in "\"'":
            self._quote = character
        elif character in "([{":
            self._depth += 1
        elif character in ")]}":
            self._depth -= 1
            return self._depth == 0
        return False

    def first_name(self) -> str | None:
        """What was read of the first call's name; None behind it."""
        if self._name_ended:
            return None
        before, parenthesis, _ = "".join(self.read).partition("(")
        self._name_ended = bool(parenthesis)
        return before.partition("[")[2].strip()
