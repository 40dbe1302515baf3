"""The one thread that touches the engine, and its mail with the event loop.

Commands come in through a queue; reports go out by `loop.call_soon_threadsafe`, one call per step
(and one before a step that admits or ends requests, so that nobody waits for the step to hear it).
At most `_REPORTS_IN_FLIGHT` reports are undelivered: a loop that is late slows the engine down
instead of filling memory.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

import numpy as np

from device_svc.engine_api import Engine, EngineFailure, OpenEngine, Sampling, SpoiledRow
from device_svc.engine_swap import Exchange, Exchanged, exchange
from device_svc.pacing import Pacer
from device_svc.prefix_cache import PrefixMode
from device_svc.recording import run_recorded_step
from device_svc.request import Report, Request
from device_svc.scheduler import Capacity, Policy, Scheduler
from device_svc.steps import Result, run_moves, run_step
from device_svc.token_masks import MASK_THREADS

_log = logging.getLogger(__name__)

_REPORTS_IN_FLIGHT: Final = 16
# So many requests, one after another, are not all at fault: the chip is.
_SPOILED_IN_A_ROW: Final = 4

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cancel:
    key: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave the loop and close the engine; requests that still live are forgotten."""


@dataclass(frozen=True, slots=True)
class Swap:
    """Go on with another engine; no request lives, and none comes before `done` has its result."""

    exchange: Exchange
    done: asyncio.Future[Exchanged]


Message: TypeAlias = Request | Cancel | Stop | Swap


class EngineThread:
    """`deliver` and `failed` are called on the loop: every report in order, then, if the engine
    fails, its error once. A failure ends all requests first.
    """

    def __init__(
        self,
        open_engine: OpenEngine,
        *,
        itl_budget_s: float,
        policy: Policy,
        deliver: Callable[[Report], None],
        failed: Callable[[BaseException], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_engine = open_engine
        self._itl_budget_s = itl_budget_s
        self._pacer = Pacer(itl_budget_s)
        self._engine: Engine | None = None
        self._spoiled_in_a_row = 0
        self._policy = policy
        self._deliver = deliver
        self._failed = failed
        self._clock = clock
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._undelivered = threading.BoundedSemaphore(_REPORTS_IN_FLIGHT)
        self._thread: threading.Thread | None = None
        self._masks = ThreadPoolExecutor(MASK_THREADS, thread_name_prefix="mask")

    @property
    def longest_step_s(self) -> float:
        """Since the start, the warm-up included; any thread may ask."""
        return self._pacer.longest_step_s

    async def start(self) -> Engine:
        """Open the engine and warm it up. Raises what that raises, such as EngineStartError."""
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[Engine] = self._loop.create_future()
        # A daemon, so that a launch that hangs cannot keep the process from exiting.
        self._thread = threading.Thread(
            target=self._main, args=(opened,), name="engine", daemon=True
        )
        self._thread.start()
        return await opened

    def send(self, message: Message) -> None:
        self._messages.put(message)

    async def swap(self, asked: Exchange) -> Exchanged:
        """Exchange the engine. A failure that leaves none is one of the engine: see `failed`.

        Raises EngineStartError then.
        """
        done: asyncio.Future[Exchanged] = asyncio.get_running_loop().create_future()
        self.send(Swap(asked, done))
        return await done

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Close the engine after the running step; gives up on a step that outlasts the timeout."""
        self.send(Stop())
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, timeout_s)
            if self._thread.is_alive():
                _log.error("the engine does not stop", extra={"timeout_s": timeout_s})
        self._masks.shutdown(wait=False)

    def _main(self, opened: asyncio.Future[Engine]) -> None:
        try:
            engine, scheduler = self._start_engine(self._open_engine)
        except BaseException as error:
            self._call(_fail_future, opened, error)
            return
        self._engine = engine
        try:
            self._call(_resolve_future, opened, engine)
            self._serve(scheduler)
        finally:
            if self._engine is not None:
                self._engine.close()

    def _start_engine(self, open_engine: OpenEngine) -> tuple[Engine, Scheduler]:
        """Open and warm up; the pacer learns the engine's times from its warm-up."""
        pacer = Pacer(self._itl_budget_s)
        engine = open_engine()
        try:
            # Keeps no rows of its own prompt.
            _warm_up(engine, self._scheduler(engine, Policy(PrefixMode.OFF), pacer))
        except BaseException:
            engine.close()
            raise
        self._pacer = pacer
        return engine, self._scheduler(engine, self._policy, pacer)

    def _scheduler(self, engine: Engine, policy: Policy, pacer: Pacer) -> Scheduler:
        capacity = Capacity(
            engine.shape,
            engine.slots,
            engine.decode_rows,
            engine.kv_row_bytes,
            engine.decode_variants,
        )
        return Scheduler(capacity, policy, pacer=pacer, clock=self._clock)

    def _serve(self, scheduler: Scheduler) -> None:
        try:
            while True:
                interruption = self._take_messages(scheduler)
                if isinstance(interruption, Stop):
                    return
                if isinstance(interruption, Swap):
                    scheduler = self._exchange(interruption, scheduler)
                assert self._engine is not None
                self._step(self._engine, scheduler)
        except Exception as error:
            _log.critical("the engine failed", exc_info=error)
            try:
                scheduler.fail_all()
                if self._engine is not None:
                    self._publish(self._engine, scheduler)
            finally:
                self._call(self._failed, error)

    def _step(self, engine: Engine, scheduler: Scheduler) -> None:
        step = scheduler.schedule()
        self._publish(engine, scheduler)
        started_s = self._clock()
        run_moves(engine, scheduler.take_moves())
        if step is None:
            return
        results = run_recorded_step(engine, step, self._masks)
        elapsed_s = self._clock() - started_s
        self._check(results)
        scheduler.postprocess(step, results, elapsed_s)
        run_moves(engine, scheduler.take_moves())
        self._publish(engine, scheduler)

    def _check(self, results: Sequence[Result]) -> None:
        for result in results:
            if isinstance(result, ValueError):
                _log.error("the engine refused a request", extra={"reason": str(result)})
            if result is not None:
                spoiled = isinstance(result, SpoiledRow)
                self._spoiled_in_a_row = self._spoiled_in_a_row + 1 if spoiled else 0
        if self._spoiled_in_a_row >= _SPOILED_IN_A_ROW:
            raise EngineFailure(f"{self._spoiled_in_a_row} requests in a row: {results[-1]}")

    def _exchange(self, asked: Swap, scheduler: Scheduler) -> Scheduler:
        assert self._engine is not None
        engine, self._engine = self._engine, None
        try:
            fresh, outcome = exchange(asked.exchange, engine, scheduler, self._start_engine)
        except BaseException as error:
            engine.close()
            self._call(_fail_future, asked.done, error)
            raise
        self._engine = outcome.engine
        self._spoiled_in_a_row = 0
        self._call(_resolve_future, asked.done, outcome)
        return fresh

    def _take_messages(self, scheduler: Scheduler) -> Stop | Swap | None:
        """Hand over what has come; sleeps while there is nothing to do."""
        while True:
            try:
                message = self._messages.get(block=not scheduler.busy)
            except queue.Empty:
                return None
            if isinstance(message, (Stop, Swap)):
                return message
            if isinstance(message, Cancel):
                scheduler.cancel(message.key)
                if not scheduler.busy:
                    return None
            else:
                scheduler.submit(message)

    def _publish(self, engine: Engine, scheduler: Scheduler) -> None:
        report = scheduler.take_report()
        if report is None:
            return
        report.launches = engine.launches
        report.chips_busy_s = engine.busy_s
        self._undelivered.acquire()
        self._call(self._on_report, report)

    def _on_report(self, report: Report) -> None:
        self._undelivered.release()
        self._deliver(report)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        self._loop.call_soon_threadsafe(function, *arguments)


def _warm_up(engine: Engine, scheduler: Scheduler) -> None:
    """The longest prefill launch and one decode: shows that they run, times them for the pacer."""
    shape = engine.shape
    prompt_ids = np.zeros(min(shape.prefill_chunk_tokens, shape.max_prompt_length), dtype=np.int32)
    sampler = engine.sampler(Sampling(temperature=0.0), prompt_ids)
    scheduler.submit(Request(key=0, prompt_ids=prompt_ids, sampler=sampler, max_tokens=2))
    while (step := scheduler.schedule()) is not None:
        started_s = time.monotonic()
        run_moves(engine, scheduler.take_moves())
        results = run_step(engine, step)
        scheduler.postprocess(step, results, time.monotonic() - started_s)
        for result in results:
            if isinstance(result, ValueError):
                raise result
    run_moves(engine, scheduler.take_moves())


def _resolve_future(future: asyncio.Future[T], result: T) -> None:
    if not future.cancelled():
        future.set_result(result)


def _fail_future(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.cancelled():
        future.set_exception(error)
