"""Follows one JSON value (RFC 8259), character by character."""

from __future__ import annotations

import enum
import re
from typing import Final

_SPACE: Final = " \t\n\r"
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?\Z")
_WORDS: Final = ("true", "false", "null")
_ESCAPED: Final = '"\\/bfnrt'
_HEX: Final = "0123456789abcdefABCDEF"
_DEEPEST: Final = 64


class Step(enum.Enum):
    """What a character did to the value."""

    MORE = enum.auto()
    END = enum.auto()  # it is the value's last
    BEFORE = enum.auto()  # the value ended before it (a number or a word at the top)
    ERROR = enum.auto()


class _State(enum.Enum):
    VALUE = enum.auto()
    FIRST_VALUE = enum.auto()
    KEY = enum.auto()
    FIRST_KEY = enum.auto()
    COLON = enum.auto()
    AFTER = enum.auto()
    STRING = enum.auto()
    ESCAPE = enum.auto()
    HEX = enum.auto()
    SCALAR = enum.auto()


class JsonScanner:
    """Of no use after a step other than MORE.

    Stricter than the standard in one point (nesting is at most 64 deep), laxer in one: control
    characters are taken inside strings, where models write line feeds; `in_string` tells.
    """

    __slots__ = ("_hex", "_is_key", "_scalar", "_stack", "_state")

    def __init__(self) -> None:
        self._state = _State.VALUE
        self._stack: list[str] = []
        self._is_key = False
        self._hex = 0
        self._scalar = ""

    @property
    def in_string(self) -> bool:
        return self._state is _State.STRING

    def feed(self, character: str) -> Step:
        state = self._state
        if state is _State.STRING:
            return self._string(character)
        if state is _State.ESCAPE:
            return self._escape(character)
        if state is _State.HEX:
            self._hex -= 1
            if not self._hex:
                self._state = _State.STRING
            return Step.MORE if character in _HEX else Step.ERROR
        if state is _State.SCALAR:
            return self._scalar_goes_on(character)
        if character in _SPACE:
            return Step.MORE
        if state is _State.AFTER:
            return self._after(character)
        if state is _State.COLON:
            self._state = _State.VALUE
            return Step.MORE if character == ":" else Step.ERROR
        if state in (_State.KEY, _State.FIRST_KEY):
            return self._key(character)
        return self._value(character)

    def _value(self, character: str) -> Step:
        if character == "]" and self._state is _State.FIRST_VALUE:
            return self._close()
        if character in "{[":
            self._stack.append(character)
            self._state = _State.FIRST_KEY if character == "{" else _State.FIRST_VALUE
            return Step.MORE if len(self._stack) <= _DEEPEST else Step.ERROR
        if character == '"':
            self._is_key = False
            self._state = _State.STRING
            return Step.MORE
        if character in "-0123456789tfn":
            self._scalar = character
            self._state = _State.SCALAR
            return Step.MORE
        return Step.ERROR

    def _key(self, character: str) -> Step:
        if character == "}" and self._state is _State.FIRST_KEY:
            return self._close()
        self._is_key = True
        self._state = _State.STRING
        return Step.MORE if character == '"' else Step.ERROR

    def _string(self, character: str) -> Step:
        if character == "\\":
            self._state = _State.ESCAPE
        elif character == '"':
            if self._is_key:
                self._state = _State.COLON
            else:
                return self._ended()
        return Step.MORE

    def _escape(self, character: str) -> Step:
        if character == "u":
            self._hex = 4
            self._state = _State.HEX
            return Step.MORE
        self._state = _State.STRING
        return Step.MORE if character in _ESCAPED else Step.ERROR

    def _scalar_goes_on(self, character: str) -> Step:
        if character.isascii() and (character.isalnum() or character in "+-."):
            self._scalar += character
            return Step.MORE
        if self._scalar not in _WORDS and not _NUMBER.match(self._scalar):
            return Step.ERROR
        if not self._stack:
            return Step.BEFORE
        self._state = _State.AFTER
        return self.feed(character)

    def _after(self, character: str) -> Step:
        if character == ",":
            self._state = _State.KEY if self._stack[-1] == "{" else _State.VALUE
            return Step.MORE
        if character == ("}" if self._stack[-1] == "{" else "]"):
            return self._close()
        return Step.ERROR

    def _close(self) -> Step:
        self._stack.pop()
        return self._ended()

    def _ended(self) -> Step:
        self._state = _State.AFTER
        return Step.MORE if self._stack else Step.END
