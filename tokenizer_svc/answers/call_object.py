"""A call written as one JSON object: `{"name": "f", "arguments": {"a": 1}}`."""

from __future__ import annotations

import enum
import json
from collections.abc import Collection

from tokenizer_svc.answers.json_scanner import JsonScanner, Step
from tokenizer_svc.answers.pieces import Sink

_SPACE = " \t\n\r"


class Outcome(enum.Enum):
    MORE = enum.auto()
    DONE = enum.auto()  # the character closed the object
    FAILED = enum.auto()  # the character was not taken


class _Expects(enum.Enum):
    BRACE = enum.auto()
    FIRST_KEY = enum.auto()
    KEY = enum.auto()
    KEY_END = enum.auto()
    COLON = enum.auto()
    VALUE = enum.auto()
    COMMA = enum.auto()


class CallObject:
    """Reads the object; the sink gets the name when it is known, then the arguments as they come.

    Members come in any order; others than the name and the arguments are skipped. The arguments may
    be an object, a text that holds one, null or absent. `opened`: the sink has the name;
    `complete`: it has all arguments. Until `opened` a failure leaves no trace in the sink.
    """

    def __init__(
        self, sink: Sink, functions: Collection[str], *, argument_keys: Collection[str]
    ) -> None:
        self.opened = False
        self.complete = False
        self._sink = sink
        self._functions = functions
        self._argument_keys = argument_keys
        self._expects = _Expects.BRACE
        self._scanner = JsonScanner()
        self._key = ""
        self._value = ""
        self._name: str | None = None
        # The arguments, where they come before the name.
        self._early: str | None = None

    def feed(self, character: str) -> Outcome:
        if self._expects is _Expects.VALUE:
            return self._in_value(character)
        if self._expects is _Expects.KEY_END:
            return self._in_key(character)
        if character in _SPACE:
            return Outcome.MORE
        return self._between(character)

    def _between(self, character: str) -> Outcome:
        expects = self._expects
        if expects is _Expects.BRACE and character == "{":
            self._expects = _Expects.FIRST_KEY
        elif expects in (_Expects.KEY, _Expects.FIRST_KEY) and character == '"':
            self._begin_value(_Expects.KEY_END)
            self._take(character)
        elif expects is _Expects.COLON and character == ":":
            self._begin_value(_Expects.VALUE)
        elif expects is _Expects.COMMA and character == ",":
            self._expects = _Expects.KEY
        elif expects is _Expects.COMMA and character == "}":
            return self._close()
        else:
            return Outcome.FAILED
        return Outcome.MORE

    def _begin_value(self, expects: _Expects) -> None:
        self._expects = expects
        self._scanner = JsonScanner()
        self._value = ""

    def _take(self, character: str) -> Step:
        step = self._scanner.feed(character)
        if step in (Step.MORE, Step.END):
            if self._scanner.in_string and character < " ":
                # A JSON string has it escaped.
                character = json.dumps(character)[1:-1]
            self._value += character
        return step

    def _in_key(self, character: str) -> Outcome:
        step = self._take(character)
        if step is Step.ERROR:
            return Outcome.FAILED
        if step is Step.END:
            self._key = json.loads(self._value)
            self._expects = _Expects.COLON
        return Outcome.MORE

    def _in_value(self, character: str) -> Outcome:
        step = self._take(character)
        if step is Step.ERROR:
            return Outcome.FAILED
        if self._streams():
            self._sink.arguments(self._value)
            self._value = ""
        elif self._begins_arguments_object() and self._name is not None:
            self._open()
        if step is Step.MORE:
            return Outcome.MORE
        if not self._member_ends():
            return Outcome.FAILED
        self._expects = _Expects.COMMA
        return self.feed(character) if step is Step.BEFORE else Outcome.MORE

    def _streams(self) -> bool:
        return self.opened and not self.complete

    def _begins_arguments_object(self) -> bool:
        return (
            self._key in self._argument_keys
            and self._early is None
            and not self.opened
            and self._value.lstrip(_SPACE).startswith("{")
        )

    def _open(self) -> None:
        assert self._name is not None
        self._sink.open_call(self._name)
        self.opened = True
        self._sink.arguments((self._value if self._early is None else self._early).lstrip(_SPACE))
        self._value = ""

    def _complete(self) -> None:
        self._sink.close_call()
        self.complete = True

    def _member_ends(self) -> bool:
        """Whether the member that just ended is as it should be."""
        if self._streams():
            self._complete()
        elif self._key == "name" and self._name is None:
            value = self._value.strip(_SPACE)
            name = json.loads(value) if value.startswith('"') else ""
            if name not in self._functions:
                return False
            self._name = name
            if self._early is not None:
                self._open()
                self._complete()
        elif self._key in self._argument_keys and not self.opened and self._early is None:
            self._early = _arguments(self._value)
            if self._early is None:
                return False
            if self._name is not None:
                self._open()
                self._complete()
        return True

    def _close(self) -> Outcome:
        if self._name is None:
            return Outcome.FAILED
        if not self.opened:
            self._early = "{}"
            self._open()
            self._complete()
        return Outcome.DONE


def _arguments(value: str) -> str | None:
    """The arguments that a member's JSON value stands for; None when it is no such value."""
    value = value.strip(_SPACE)
    if value == "null":
        return "{}"
    if value.startswith('"'):
        text: str = json.loads(value)
        try:
            text.encode()
            holds_object = isinstance(json.loads(text), dict)
        except (ValueError, RecursionError):
            return None
        return text if holds_object else None
    return value if value.startswith("{") else None
