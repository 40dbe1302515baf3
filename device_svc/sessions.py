"""Sessions on the event loop: who owns which request, and what waits to be written.

A session owns what was submitted on it. Closing it, for whatever reason, cancels its requests.
Live requests over all sessions are bounded by slots + max_waiting, which bounds the mail to the
engine thread too. What a session's reader has not taken is bounded by `max_unread_events`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from device_svc.engine_thread import Cancel, Message
from device_svc.request import (
    Accepted,
    Emission,
    Finish,
    Refused,
    RejectReason,
    Report,
    Request,
)
from tpuserve.errors import Overloaded, TpuserveError

_log = logging.getLogger(__name__)

# Seconds of steps of a fast chip: a gateway that is late is not lost yet.
MAX_UNREAD_EVENTS: Final = 16384
# A session with requests hears of a step that has nothing for it when it heard nothing for so long.
_SIGN_OF_LIFE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Load:
    """`running` and `kv_tokens` as of the last report; `waiting` includes what is on its way."""

    running: int
    waiting: int
    free_slots: int
    kv_tokens: int
    kv_capacity_tokens: int
    longest_step_s: float = 0.0


@dataclass(frozen=True, slots=True)
class AcceptedEvent:
    request_id: str
    accepted: Accepted


@dataclass(frozen=True, slots=True)
class FrameEvent:
    """One step's emissions of one session, each with its request id."""

    step: int
    emissions: list[tuple[str, Emission]]
    load: Load
    engine_s: float


@dataclass(frozen=True, slots=True)
class RejectedEvent:
    request_id: str
    reason: RejectReason
    detail: str


SessionEvent: TypeAlias = AcceptedEvent | FrameEvent | RejectedEvent


class SessionState:
    """One stream: the keys of its live requests by request id, and the events for its reader."""

    def __init__(self, max_unread_events: int) -> None:
        self.keys: dict[str, int] = {}
        self.submits_ended = False
        self.last_frame_s = 0.0
        # Resolved when the session must end at once, whatever its reader does.
        self.broken: asyncio.Future[TpuserveError] = asyncio.get_running_loop().create_future()
        self._max_unread_events = max_unread_events
        self._events: asyncio.Queue[SessionEvent | Exception | None] = asyncio.Queue()
        self._ended = False

    def put(self, event: SessionEvent) -> None:
        """Queue an event; breaks the session when its reader is too far behind."""
        if self._ended:
            return
        if self._events.qsize() >= self._max_unread_events:
            self._ended = True
            self.broken.set_result(
                Overloaded(f"{self._max_unread_events} events are unread; the session is ended")
            )
            return
        self._events.put_nowait(event)

    async def get(self) -> SessionEvent | None:
        """The next event; None at the end. Raises the error that the session ends with."""
        event = await self._events.get()
        if isinstance(event, Exception):
            raise event
        return event

    def end(self, error: Exception | None = None) -> None:
        """No event follows those that are queued."""
        if not self._ended:
            self._ended = True
            self._events.put_nowait(error)


class Sessions:
    """All sessions of the device. Lives on one event loop."""

    def __init__(
        self,
        send: Callable[[Message], None],
        *,
        slots: int,
        context_length: int,
        max_waiting: int,
        max_unread_events: int = MAX_UNREAD_EVENTS,
        longest_step_s: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._longest_step_s = longest_step_s
        self._clock = clock
        self._slots = slots
        self._kv_capacity_tokens = slots * context_length
        self._max_waiting = max_waiting
        self._max_unread_events = max_unread_events
        self._sessions: set[SessionState] = set()
        self._live: dict[int, tuple[SessionState, str]] = {}
        # Of those that live, which are not ready for the engine thread yet.
        self._preparing: dict[int, asyncio.Task[None]] = {}
        self._keys = itertools.count(1)
        self._running = 0
        self._kv_tokens = 0
        self._draining = False
        self._over: TpuserveError | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def load(self) -> Load:
        return Load(
            running=self._running,
            waiting=max(len(self._live) - self._running, 0),
            free_slots=self._slots - self._running,
            kv_tokens=self._kv_tokens,
            kv_capacity_tokens=self._kv_capacity_tokens,
            longest_step_s=self._longest_step_s(),
        )

    def open(self) -> SessionState:
        if self._over is not None:
            raise self._over
        session = SessionState(self._max_unread_events)
        session.last_frame_s = self._clock()
        self._sessions.add(session)
        return session

    def admit(self, session: SessionState, request_id: str) -> int:
        """The key for a request that may be submitted now. Raises Refused."""
        if self._draining:
            raise Refused(RejectReason.DRAINING, "the device is about to stop")
        if request_id in session.keys:
            raise Refused(RejectReason.DUPLICATE, f"request id {request_id!r} is in use")
        if len(self._live) >= self._slots + self._max_waiting:
            raise Refused(
                RejectReason.BUSY,
                f"{len(self._live)} requests are running or waiting; "
                f"{self._slots} slots and {self._max_waiting} waiting places are all",
            )
        return next(self._keys)

    def submit(self, session: SessionState, request_id: str, request: Request) -> None:
        """Hand over a request that was admitted in this turn of the loop."""
        self._enter(session, request_id, request.key)
        self._send(request)

    def submit_when_prepared(
        self,
        session: SessionState,
        request_id: str,
        request: Request,
        prepare: Callable[[Request], Awaitable[Request]],
    ) -> None:
        """The same, but what `prepare` makes of it is handed over. `prepare` may raise Refused."""
        self._enter(session, request_id, request.key)
        self._preparing[request.key] = asyncio.create_task(self._prepare(request, prepare))

    def cancel(self, session: SessionState, request_id: str) -> None:
        """The end comes as an emission; unknown ids are ignored, since ends and cancels race."""
        key = session.keys.get(request_id)
        if key is not None:
            self._cancel(key)

    def end_submits(self, session: SessionState) -> None:
        """The client has half-closed: the session ends after its last request."""
        session.submits_ended = True
        self._end_if_last(session)

    def close(self, session: SessionState) -> None:
        """Cancel all that the session owns. Their slots are free after the running step."""
        self._sessions.discard(session)
        session.end()
        for key in list(session.keys.values()):
            self._cancel(key)

    def deliver(self, report: Report) -> None:
        """Turn a report into events for the sessions that own its requests."""
        self._running = report.running
        self._kv_tokens = report.kv_tokens
        for accepted in report.accepted:
            session, request_id = self._live[accepted.key]
            session.put(AcceptedEvent(request_id, accepted))
        frames: dict[SessionState, list[tuple[str, Emission]]] = {}
        for emission in report.emissions:
            session, request_id = self._live[emission.key]
            if emission.reason:
                session.put(RejectedEvent(request_id, RejectReason.INVALID, emission.reason))
                self._leave(emission.key)
                self._end_if_last(session)
                continue
            frames.setdefault(session, []).append((request_id, emission))
            if emission.finish is not None:
                self._leave(emission.key)
        load, now_s = self.load, self._clock()
        for session in self._sessions:
            silent_s = now_s - session.last_frame_s
            if report.kind is not None and session.keys and silent_s >= _SIGN_OF_LIFE_S:
                frames.setdefault(session, [])
        for session, emissions in frames.items():
            session.last_frame_s = now_s
            session.put(FrameEvent(report.step, emissions, load, report.engine_s))
            self._end_if_last(session)

    def _enter(self, session: SessionState, request_id: str, key: int) -> None:
        self._live[key] = (session, request_id)
        session.keys[request_id] = key
        self._idle.clear()

    def _leave(self, key: int) -> None:
        session, request_id = self._live.pop(key)
        del session.keys[request_id]
        if not self._live:
            self._idle.set()

    @staticmethod
    def _end_if_last(session: SessionState) -> None:
        if session.submits_ended and not session.keys:
            session.end()

    async def _prepare(
        self, request: Request, prepare: Callable[[Request], Awaitable[Request]]
    ) -> None:
        _, request_id = self._live[request.key]
        try:
            prepared = await prepare(request)
        except Exception as error:
            reason, detail = RejectReason.INVALID, "the request could not be prepared"
            if isinstance(error, Refused):
                reason, detail = error.reason, error.detail
            else:
                _log.exception("preparing failed", extra={"request_id": request_id})
            self._end_early(request.key, RejectedEvent(request_id, reason, detail))
            return
        del self._preparing[request.key]
        self._send(prepared)

    def _cancel(self, key: int) -> None:
        task = self._preparing.get(key)
        if task is None:
            self._send(Cancel(key))
            return
        task.cancel()
        _, request_id = self._live[key]
        emission = Emission(key, finish=Finish.CANCELLED)
        self._end_early(key, FrameEvent(0, [(request_id, emission)], self.load, 0.0))

    def _end_early(self, key: int, event: SessionEvent) -> None:
        """For a request that the engine thread has not seen."""
        del self._preparing[key]
        session, _ = self._live[key]
        self._leave(key)
        session.put(event)
        self._end_if_last(session)

    def refuse_submits(self) -> None:
        """From now on; what lives goes on."""
        self._draining = True

    async def wait_idle(self, timeout_s: float | None) -> bool:
        """Whether no request lived at some time within `timeout_s`; None waits for that."""
        if not self._idle.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout_s)
        return self._idle.is_set()

    def accept_again(self) -> None:
        """After `refuse_submits`."""
        self._draining = False

    def resize(self, *, slots: int, context_length: int) -> None:
        """The engine is another one now; no request lives."""
        self._slots = slots
        self._kv_capacity_tokens = slots * context_length
        self._running = self._kv_tokens = 0

    def end_open(self, error: TpuserveError) -> None:
        """End the sessions that are open now, with their requests; others may follow."""
        for session in self._sessions:
            session.end(error)

    def end_all(self, error: TpuserveError) -> None:
        """End every session, and each that is opened from now on, with `error`."""
        self._over = error
        for session in self._sessions:
            session.end(error)
