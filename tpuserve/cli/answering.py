"""Printing an answer while it is generated, and how fast it came."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

from tpuserve.client import Chunk, Delta, Finished, ToolCall


@dataclass(frozen=True, slots=True)
class Answer:
    """Seen from this side of the connection. `ftl_s` is the time to the first token."""

    text: str
    tokens: int
    ftl_s: float
    seconds: float
    finished: Finished | None
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def tokens_per_s(self) -> float:
        """Of all tokens but the first, which took the prefill; 0 with fewer than two."""
        rest_s = self.seconds - self.ftl_s
        return (self.tokens - 1) / rest_s if self.tokens > 1 and rest_s > 0 else 0.0


class _Printer:
    """Writes an answer to stdout as it comes: what it thinks, says and calls, in paragraphs."""

    def __init__(self) -> None:
        self.text = ""
        self.reasoning = ""
        self.calls: list[ToolCall] = []
        self._paragraph = ""

    def show(self, delta: Delta) -> None:
        if delta.reasoning:
            self._write("thinking", "(thinks) ", delta.reasoning)
            self.reasoning += delta.reasoning
        if delta.text:
            self._write("text", "", delta.text)
            self.text += delta.text
        for piece in delta.tool_calls:
            if piece.index == len(self.calls):
                self.calls.append(ToolCall(piece.id, piece.name, ""))
            call = self.calls[piece.index]
            arguments = call.arguments_json + piece.arguments_json
            self.calls[piece.index] = ToolCall(call.id, call.name, arguments)
            self._write(f"call {piece.index}", f"(calls) {call.name} ", piece.arguments_json)
        sys.stdout.flush()

    def end(self) -> None:
        """Ends the line, if there is one."""
        if self._paragraph:
            print(flush=True)

    def _write(self, paragraph: str, opening: str, text: str) -> None:
        if paragraph != self._paragraph:
            sys.stdout.write(("\n" if self._paragraph else "") + opening)
            self._paragraph = paragraph
        sys.stdout.write(text)


def show(chunks: Iterable[Chunk]) -> Answer:
    """Write completion 0 to stdout as it comes, and end its line however it ends."""
    started_s = time.monotonic()
    first_s: float | None = None
    printer = _Printer()
    tokens = 0
    finished: Finished | None = None
    try:
        for chunk in chunks:
            if isinstance(chunk, Delta) and chunk.index == 0:
                if first_s is None:
                    first_s = time.monotonic()
                tokens += len(chunk.token_ids)
                printer.show(chunk)
            elif isinstance(chunk, Finished):
                finished = chunk
    finally:
        printer.end()
    ended_s = time.monotonic()
    return Answer(
        text=printer.text,
        tokens=tokens if finished is None else finished.usage.completion_tokens,
        ftl_s=(first_s or ended_s) - started_s,
        seconds=ended_s - started_s,
        finished=finished,
        reasoning=printer.reasoning,
        tool_calls=tuple(printer.calls),
    )
