"""Sessions against a list in place of the engine thread."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest

from device_svc.engine_api import Sampling
from device_svc.engine_thread import Cancel, Message
from device_svc.request import Accepted, Emission, Finish, Refused, RejectReason, Report, Request
from device_svc.sessions import (
    AcceptedEvent,
    FrameEvent,
    Load,
    RejectedEvent,
    SessionEvent,
    Sessions,
    SessionState,
)
from device_svc.token_masks import Matcher
from tests.support.fake_core import FakeSampler
from tpuserve.errors import Overloaded, Unavailable


class Desk:
    """Sessions of a device with one slot and one waiting place; `sent` is the thread's mail."""

    def __init__(self, *, max_unread_events: int = 100) -> None:
        self.sent: list[Message] = []
        self.now_s = 100.0
        self.sessions = Sessions(
            self.sent.append,
            slots=1,
            context_length=50,
            max_waiting=1,
            max_unread_events=max_unread_events,
            longest_step_s=lambda: 0.25,
            clock=lambda: self.now_s,
        )

    def submit(self, session: SessionState, request_id: str) -> int:
        key = self.sessions.admit(session, request_id)
        prompt = np.array([1], dtype=np.int32)
        sampler = FakeSampler(Sampling(), 10)
        self.sessions.submit(session, request_id, Request(key, prompt, sampler, 5))
        return key

    def emit(self, *emissions: Emission, step: int = 1, running: int = 1) -> None:
        self.sessions.deliver(Report(step, emissions=list(emissions), running=running, kv_tokens=3))


async def events(session: SessionState, count: int) -> list[SessionEvent | None]:
    return [await asyncio.wait_for(session.get(), 5) for _ in range(count)]


async def test_a_frame_holds_all_of_a_sessions_emissions_of_a_step() -> None:
    desk = Desk()
    one, other = desk.sessions.open(), desk.sessions.open()
    first, second = desk.submit(one, "a"), desk.submit(other, "a")
    desk.sessions.deliver(Report(0, accepted=[Accepted(first, 0, 0)], running=1))
    desk.emit(Emission(first, (7,)), Emission(second, (8,), finish=Finish.STOP), step=4)
    accepted, frame = await events(one, 2)
    assert accepted == AcceptedEvent("a", Accepted(first, 0, 0))
    assert isinstance(frame, FrameEvent)
    assert (frame.step, frame.emissions) == (4, [("a", Emission(first, (7,)))])
    assert frame.load == Load(1, 0, 0, 3, 50, longest_step_s=0.25)
    (frame,) = await events(other, 1)
    assert isinstance(frame, FrameEvent)
    assert frame.emissions == [("a", Emission(second, (8,), finish=Finish.STOP))]


async def test_a_session_hears_of_steps_that_have_nothing_for_it() -> None:
    """So that a long prompt does not look like a device that hangs; twice a second will do."""
    desk = Desk()
    working, idle = desk.sessions.open(), desk.sessions.open()
    desk.submit(working, "a")
    for step in range(1, 13):
        desk.now_s += 0.2
        desk.sessions.deliver(Report(step, kind="prefill", running=1))
    desk.now_s += 9
    # Nothing ran: that is no sign of life.
    desk.sessions.deliver(Report(13, running=1))
    desk.emit(Emission(1, (7,)), step=14)
    frames = await events(working, 5)
    assert all(isinstance(frame, FrameEvent) for frame in frames)
    told = [(f.step, len(f.emissions)) for f in frames if isinstance(f, FrameEvent)]
    assert told == [(3, 0), (6, 0), (9, 0), (12, 0), (14, 1)]
    assert idle.last_frame_s == 100


async def test_live_requests_are_bounded_and_a_finish_makes_room() -> None:
    desk = Desk()
    session = desk.sessions.open()
    first = desk.submit(session, "a")
    desk.submit(session, "b")
    with pytest.raises(Refused, match=r"2 requests.*1 slots and 1 waiting") as caught:
        desk.submit(session, "c")
    assert caught.value.reason is RejectReason.BUSY
    desk.emit(Emission(first, finish=Finish.LENGTH), running=0)
    desk.submit(session, "c")
    assert desk.sessions.load.waiting == 2


async def test_a_request_id_is_in_use_until_its_finish_and_only_on_its_stream() -> None:
    desk = Desk()
    session, other = desk.sessions.open(), desk.sessions.open()
    key = desk.submit(session, "a")
    with pytest.raises(Refused) as caught:
        desk.submit(session, "a")
    assert caught.value.reason is RejectReason.DUPLICATE
    desk.submit(other, "a")
    desk.emit(Emission(key, finish=Finish.STOP))
    desk.submit(session, "a")


async def test_cancel_names_the_key_and_ignores_the_unknown() -> None:
    desk = Desk()
    session, other = desk.sessions.open(), desk.sessions.open()
    key = desk.submit(session, "a")
    desk.sessions.cancel(other, "a")
    desk.sessions.cancel(session, "b")
    assert desk.sent[1:] == []
    desk.sessions.cancel(session, "a")
    assert desk.sent[1:] == [Cancel(key)]


async def test_closing_cancels_what_the_session_owns_and_drops_its_events() -> None:
    desk = Desk()
    session, other = desk.sessions.open(), desk.sessions.open()
    key = desk.submit(session, "a")
    desk.submit(other, "a")
    desk.sessions.close(session)
    assert desk.sent[2:] == [Cancel(key)]
    desk.emit(Emission(key, (5,)))
    desk.emit(Emission(key, finish=Finish.CANCELLED))
    assert desk.sessions.load.waiting == 0
    assert await events(session, 1) == [None]


async def test_a_half_closed_session_ends_after_its_last_request() -> None:
    desk = Desk()
    session = desk.sessions.open()
    key = desk.submit(session, "a")
    desk.sessions.end_submits(session)
    desk.emit(Emission(key, (5,), finish=Finish.STOP))
    frame, end = await events(session, 2)
    assert isinstance(frame, FrameEvent)
    assert end is None


async def test_a_reader_that_is_too_far_behind_loses_its_session() -> None:
    desk = Desk(max_unread_events=3)
    session, other = desk.sessions.open(), desk.sessions.open()
    key, kept = desk.submit(session, "a"), desk.submit(other, "a")
    for step in range(3):
        desk.emit(Emission(key, (step,)), step=step)
    assert not session.broken.done()
    desk.emit(Emission(key, (3,)), Emission(kept, (4,)), step=3)
    assert isinstance(session.broken.result(), Overloaded)
    assert "3 events" in session.broken.result().message
    assert not other.broken.done()
    (frame,) = await events(other, 1)
    assert isinstance(frame, FrameEvent)


async def test_draining_refuses_submits_and_waits_for_the_rest() -> None:
    desk = Desk()
    session = desk.sessions.open()
    assert await desk.sessions.wait_idle(0)
    key = desk.submit(session, "a")
    desk.sessions.refuse_submits()
    with pytest.raises(Refused) as caught:
        desk.submit(session, "b")
    assert caught.value.reason is RejectReason.DRAINING
    assert not await desk.sessions.wait_idle(0.001)
    desk.emit(Emission(key, finish=Finish.STOP))
    assert await desk.sessions.wait_idle(0)


async def test_an_end_for_all_comes_after_what_was_queued() -> None:
    desk = Desk()
    session = desk.sessions.open()
    key = desk.submit(session, "a")
    desk.emit(Emission(key, finish=Finish.ERROR))
    desk.sessions.end_all(Unavailable("gone"))
    (frame,) = await events(session, 1)
    assert isinstance(frame, FrameEvent)
    with pytest.raises(Unavailable, match="gone"):
        await session.get()
    with pytest.raises(Unavailable, match="gone"):
        desk.sessions.open()


class Compiling:
    """A matcher that is made when the test says so."""

    def __init__(self) -> None:
        self.made: asyncio.Future[Matcher] = asyncio.get_running_loop().create_future()

    async def prepare(self, request: Request) -> Request:
        return replace(request, matcher=await self.made)


def submit_formatted(desk: Desk, session: SessionState, request_id: str) -> tuple[int, Compiling]:
    key = desk.sessions.admit(session, request_id)
    prompt = np.array([1], dtype=np.int32)
    compiling = Compiling()
    request = Request(key, prompt, FakeSampler(Sampling(), 10), 5)
    desk.sessions.submit_when_prepared(session, request_id, request, compiling.prepare)
    return key, compiling


async def settled() -> None:
    """Tasks that can go on have done so."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_request_is_handed_over_once_its_matcher_is_made() -> None:
    desk = Desk()
    session = desk.sessions.open()
    key, compiling = submit_formatted(desk, session, "a")
    with pytest.raises(Refused, match="in use"):
        desk.sessions.admit(session, "a")
    await settled()
    assert desk.sent == []
    assert desk.sessions.load.waiting == 1
    matcher = Mock()
    compiling.made.set_result(matcher)
    await settled()
    [sent] = desk.sent
    assert isinstance(sent, Request)
    assert (sent.key, sent.matcher) == (key, matcher)
    desk.sessions.cancel(session, "a")
    assert desk.sent[-1] == Cancel(key)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Refused(RejectReason.INVALID, "no such type"), "no such type"),
        (RuntimeError("secret"), "the request could not be prepared"),
    ],
)
async def test_a_format_that_cannot_be_compiled_rejects_the_request(
    error: Exception, said: str
) -> None:
    desk = Desk()
    session = desk.sessions.open()
    _, compiling = submit_formatted(desk, session, "a")
    desk.sessions.end_submits(session)
    compiling.made.set_exception(error)
    rejected, end = await events(session, 2)
    assert rejected == RejectedEvent("a", RejectReason.INVALID, said)
    assert end is None
    assert desk.sent == []
    assert await desk.sessions.wait_idle(0)


async def test_a_request_can_be_cancelled_while_its_format_is_compiled() -> None:
    desk = Desk()
    session = desk.sessions.open()
    key, _ = submit_formatted(desk, session, "a")
    desk.sessions.cancel(session, "a")
    [frame] = await events(session, 1)
    assert isinstance(frame, FrameEvent)
    assert frame.emissions == [("a", Emission(key, finish=Finish.CANCELLED))]
    key, compiling = submit_formatted(desk, session, "a")
    await settled()
    desk.sessions.close(session)
    await settled()
    assert compiling.made.cancelled()
    assert desk.sent == []
    assert await desk.sessions.wait_idle(0)


async def test_a_request_whose_format_leaves_no_token_is_rejected_late() -> None:
    desk = Desk()
    session = desk.sessions.open()
    key = desk.submit(session, "a")
    desk.emit(Emission(key, (7,)))
    desk.emit(Emission(key, finish=Finish.ERROR, reason="too complex"), step=2)
    frame, rejected = await events(session, 2)
    assert isinstance(frame, FrameEvent)
    assert rejected == RejectedEvent("a", RejectReason.INVALID, "too complex")
    assert await desk.sessions.wait_idle(0)
