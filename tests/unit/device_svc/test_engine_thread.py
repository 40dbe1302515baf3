"""The thread over the arithmetic engine, which refuses to be used by a second thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from device_svc.engine_api import EngineFailure, EngineStartError, Sampling
from device_svc.engine_thread import Cancel, EngineThread
from device_svc.request import Emission, Finish, Report, Request
from device_svc.scheduler import Policy
from tests.support.fake_core import FakeEngine, FakeSampler, expected_tokens


class Inbox:
    """What the thread has sent to the loop."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.failures: list[BaseException] = []
        self._news = asyncio.Event()

    def deliver(self, report: Report) -> None:
        self.reports.append(report)
        self._news.set()

    def failed(self, error: BaseException) -> None:
        self.failures.append(error)
        self._news.set()

    async def next(self) -> None:
        await asyncio.wait_for(self._news.wait(), 5)
        self._news.clear()

    async def finish(self, key: int) -> Finish:
        while True:
            for emission in self._emissions(key):
                if emission.finish is not None:
                    return emission.finish
            await self.next()

    def ids(self, key: int) -> list[int]:
        return [token for emission in self._emissions(key) for token in emission.ids]

    def _emissions(self, key: int) -> list[Emission]:
        return [e for report in self.reports for e in report.emissions if e.key == key]


@asynccontextmanager
async def running(engine: FakeEngine) -> AsyncIterator[tuple[EngineThread, Inbox]]:
    inbox = Inbox()
    thread = EngineThread(
        lambda: engine,
        itl_budget_s=1.0,
        policy=Policy(),
        deliver=inbox.deliver,
        failed=inbox.failed,
    )
    await thread.start()
    try:
        yield thread, inbox
    finally:
        await thread.stop()
        assert engine.closed


def request(key: int, *, max_tokens: int = 4) -> Request:
    prompt = np.array([1, 2, 3], dtype=np.int32)
    return Request(key, prompt, FakeSampler(Sampling(temperature=0.0), 1024), max_tokens)


async def test_it_warms_up_and_then_serves() -> None:
    engine = FakeEngine()
    async with running(engine) as (thread, inbox):
        assert engine.launches == 2
        thread.send(request(1))
        assert await inbox.finish(1) is Finish.LENGTH
        assert inbox.ids(1) == [9, 19, 39, 79]
        # Nobody waits for the first step to hear of the slot.
        assert [a.key for a in inbox.reports[0].accepted] == [1]
        assert inbox.reports[0].kind is None
        assert inbox.reports[-1].launches == engine.launches


async def test_commands_during_a_step_are_taken_after_it() -> None:
    gate, entered = threading.Semaphore(2), threading.Semaphore(0)

    def before_launch() -> None:
        entered.release()
        assert gate.acquire(timeout=5)

    engine = FakeEngine(slots=1, before_launch=before_launch)
    async with running(engine) as (thread, inbox):
        for _ in range(2):
            assert entered.acquire(timeout=5)
        thread.send(request(1, max_tokens=100))
        assert await asyncio.to_thread(entered.acquire, timeout=5)
        thread.send(Cancel(1))
        thread.send(request(2, max_tokens=1))
        gate.release(2)
        assert await inbox.finish(1) is Finish.CANCELLED
        # The running step's token is still delivered; the next step belongs to the next request.
        assert inbox.ids(1) == [9]
        assert await inbox.finish(2) is Finish.LENGTH
        assert engine.launches == 4


async def test_a_failure_ends_all_requests_and_is_told_last(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = FakeEngine(slots=1, fail_at=4)
    async with running(engine) as (thread, inbox):
        thread.send(request(1))
        thread.send(request(2))
        assert await inbox.finish(1) is Finish.ERROR
        assert await inbox.finish(2) is Finish.ERROR
        while not inbox.failures:
            await inbox.next()
        assert isinstance(inbox.failures[0], EngineFailure)
    assert "the engine failed" in caplog.messages


async def test_a_loop_that_is_late_slows_the_engine_down() -> None:
    engine = FakeEngine(context_length=4096)
    async with running(engine) as (thread, inbox):
        thread.send(request(1, max_tokens=2000))
        await inbox.next()
        # The loop stands still while the engine could go on.
        launches = -1
        stalled = threading.Event()
        while launches != engine.launches:
            launches = engine.launches
            stalled.wait(0.05)
        assert engine.launches - inbox.reports[-1].launches <= 20
        assert await inbox.finish(1) is Finish.LENGTH
        assert inbox.ids(1) == expected_tokens([1, 2, 3], 2000)


async def test_an_engine_that_cannot_be_opened_is_told_to_the_starter() -> None:
    def open_engine() -> FakeEngine:
        raise EngineStartError("no chip 7")

    thread = EngineThread(open_engine, itl_budget_s=1, policy=Policy(), deliver=print, failed=print)
    with pytest.raises(EngineStartError, match="no chip 7"):
        await thread.start()
    await thread.stop()


async def test_an_engine_that_fails_its_warm_up_is_closed() -> None:
    engine = FakeEngine(fail_at=2)
    thread = EngineThread(
        lambda: engine, itl_budget_s=1, policy=Policy(), deliver=print, failed=print
    )
    with pytest.raises(EngineFailure, match="launch 2"):
        await thread.start()
    await thread.stop()
    assert engine.closed


async def test_nan_of_four_requests_in_a_row_is_the_engines_failure() -> None:
    engine = FakeEngine(spoil_id=700)
    async with running(engine) as (thread, inbox):

        def submit(key: int, token: int) -> None:
            ids = np.array([token], dtype=np.int32)
            sampler = engine.sampler(Sampling(temperature=0), ids)
            thread.send(Request(key=key, prompt_ids=ids, sampler=sampler, max_tokens=2))

        for key, token in enumerate([700, 700, 700, 1, 700, 700, 700]):
            submit(key, token)
            expected = Finish.LENGTH if token == 1 else Finish.ERROR
            assert await inbox.finish(key) is expected
        assert not inbox.failures
        submit(7, 700)
        assert await inbox.finish(7) is Finish.ERROR
        while not inbox.failures:
            await inbox.next()
        assert "4 requests in a row: NaN" in str(inbox.failures[0])
