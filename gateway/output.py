"""The events of one request between the streams that produce them and the client that reads.

A device's frames cannot wait for one reader, so a request's events are held here until its client
takes them. What is held is bounded in bytes; past the bound the request fails and its device slot
is freed, so a reader that does not read harms itself only. A reader that is merely late gets the
deltas that piled up as one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from gateway.answer import joined
from gateway.request import Delta, Started
from tpuserve.errors import Overloaded

_EVENT_BYTES = 64
_ID_BYTES = 8
_LOGPROB_BYTES = 64


@dataclass(frozen=True, slots=True)
class Ended:
    """The completion of this index has all its deltas; its summary is made when this is read."""

    index: int


Output: TypeAlias = Started | Delta | Ended


class OutputBuffer:
    """Single reader, any number of writers on the same event loop.

    `on_overflow` is called once, synchronously, when the bound is passed.
    """

    def __init__(self, *, max_bytes: int, on_overflow: Callable[[], None]) -> None:
        self._max_bytes = max_bytes
        self._on_overflow = on_overflow
        self._events: list[Output] = []
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None

    def put(self, event: Output) -> None:
        if self._error is not None:
            return
        self._events.append(event)
        self._bytes += _size_bytes(event)
        if self._bytes > self._max_bytes:
            self.fail(
                Overloaded(
                    f"the client reads too slowly: {self._bytes} bytes wait for it, "
                    f"at most {self._max_bytes}"
                )
            )
            self._on_overflow()
            return
        self._wake()

    def fail(self, error: Exception) -> None:
        """End the stream with `error`, behind what was put before. The first error wins."""
        if self._error is None:
            self._error = error
            self._wake()

    async def take(self) -> list[Output]:
        """All that waits, at least one event. Raises the error once what is before it was taken."""
        while not self._events:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        events, self._events, self._bytes = self._events, [], 0
        return events if len(events) == 1 else merge(events)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def merge(events: Iterable[Output]) -> list[Output]:
    """Join each run of deltas of one index into one delta."""
    merged: list[Output] = []
    run: list[Delta] = []
    for event in events:
        if isinstance(event, Delta) and (not run or run[0].index == event.index):
            run.append(event)
            continue
        _close_run(run, merged)
        run = [event] if isinstance(event, Delta) else []
        if not run:
            merged.append(event)
    _close_run(run, merged)
    return merged


def _close_run(run: list[Delta], into: list[Output]) -> None:
    if len(run) == 1:
        into.append(run[0])
    elif run:
        into.append(
            Delta(
                run[0].index,
                "".join(delta.text for delta in run),
                [token_id for delta in run for token_id in delta.token_ids],
                [logprob for delta in run for logprob in delta.logprobs],
                "".join(delta.reasoning for delta in run),
                joined(call for delta in run for call in delta.tool_calls),
            )
        )


def _size_bytes(event: Output) -> int:
    if isinstance(event, Delta):
        top = sum(1 + len(logprob.top) for logprob in event.logprobs)
        return (
            _EVENT_BYTES
            + 2 * (len(event.text) + len(event.reasoning))
            + sum(_EVENT_BYTES + 2 * len(call.arguments_json) for call in event.tool_calls)
            + _ID_BYTES * len(event.token_ids)
            + _LOGPROB_BYTES * top
        )
    return _EVENT_BYTES
