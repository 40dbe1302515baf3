"""What the tokenizer makes of a completion, and how much of it the client has been given."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.request import ChatPrompt, Prompt, ToolCall, ToolCallDelta

_ID_DIGITS: Final = 24


@dataclass(frozen=True, slots=True)
class AnswerWish:
    """How an answer is read: for reasoning, and for calls of these functions."""

    functions: tuple[str, ...] = ()
    single_call: bool = False


def wish(prompt: Prompt) -> AnswerWish | None:
    """None where the answer is nothing but text."""
    if not isinstance(prompt, ChatPrompt) or prompt.raw_answer:
        return None
    choice = prompt.tool_choice
    return AnswerWish(
        tuple(tool.name for tool in prompt.offered_tools),
        single_call=choice.function is not None or not choice.parallel,
    )


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of the answer's call number `index`; `complete`: no more of it follow."""

    index: int
    name: str
    arguments: str
    complete: bool


@dataclass(frozen=True, slots=True)
class Text:
    """The tokenizer's answer to one piece. `consumed` counts ids up to a stop text's end.

    `answered`: the single call that was asked for is complete, and `consumed` counts up to it.
    """

    text: str
    stop_index: int | None
    consumed: int
    token_bytes: Sequence[bytes]
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()
    answered: bool = False

    @property
    def cut(self) -> bool:
        """Whether tokens behind `consumed` are not part of the completion."""
        return self.answered or self.stop_index is not None


class Given:
    """Counts what was given of one completion, so that a replay does not give it again."""

    __slots__ = ("_arguments_chars", "_reasoning_chars", "_sequence_id", "_text_chars", "called")

    def __init__(self, sequence_id: str) -> None:
        # The last call is complete.
        self.called = False
        self._sequence_id = sequence_id
        self._text_chars = 0
        self._reasoning_chars = 0
        # Of each call.
        self._arguments_chars: list[int] = []

    def rest(self, whole: Text) -> Text:
        """Of the text of a replay, which begins at the completion's start, what is new."""
        return replace(
            whole,
            text=whole.text[self._text_chars :],
            reasoning=whole.reasoning[self._reasoning_chars :],
            calls=tuple(rest for piece in whole.calls if (rest := self._rest(piece)) is not None),
        )

    def _rest(self, piece: CallPiece) -> CallPiece | None:
        if piece.index >= len(self._arguments_chars):
            return piece
        arguments = piece.arguments[self._arguments_chars[piece.index] :]
        if not arguments and not piece.complete:
            return None
        return replace(piece, name="", arguments=arguments)

    def give(self, answer: Text) -> tuple[ToolCallDelta, ...]:
        """Counts the answer in; its calls in the client's form."""
        self._text_chars += len(answer.text)
        self._reasoning_chars += len(answer.reasoning)
        if not answer.calls:
            return ()
        return tuple(
            delta
            for piece in answer.calls
            if (delta := self._call(piece)).arguments_json or delta.name
        )

    def _call(self, piece: CallPiece) -> ToolCallDelta:
        first = piece.index == len(self._arguments_chars)
        if first:
            self._arguments_chars.append(0)
        self._arguments_chars[piece.index] += len(piece.arguments)
        self.called = piece.complete
        call_id = _call_id(self._sequence_id, piece.index) if first else ""
        return ToolCallDelta(piece.index, call_id, piece.name, piece.arguments)


def whole_calls(deltas: Iterable[ToolCallDelta]) -> tuple[ToolCall, ...]:
    """The calls that the pieces of one completion join to."""
    calls: list[ToolCall] = []
    for delta in deltas:
        if delta.index == len(calls):
            calls.append(ToolCall(delta.id, delta.name, ""))
        call = calls[delta.index]
        calls[delta.index] = replace(
            call, arguments_json=call.arguments_json + delta.arguments_json
        )
    return tuple(calls)


def joined(deltas: Iterable[ToolCallDelta]) -> tuple[ToolCallDelta, ...]:
    """As few pieces as possible, one for each call."""
    by_index: dict[int, ToolCallDelta] = {}
    for delta in deltas:
        before = by_index.get(delta.index)
        by_index[delta.index] = (
            delta
            if before is None
            else replace(before, arguments_json=before.arguments_json + delta.arguments_json)
        )
    return tuple(by_index.values())


def _call_id(sequence_id: str, index: int) -> str:
    """The same for the same call, whichever processes have a part in it."""
    digest = hashlib.sha256(f"{sequence_id}.{index}".encode()).hexdigest()
    return f"call_{digest[:_ID_DIGITS]}"
