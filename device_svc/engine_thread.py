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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from device_svc.engine_api import Engine, EngineFailure, OpenEngine, Sampling, SpoiledRow
from device_svc.pacing import Pacer
from device_svc.prefix_cache import PrefixMode
from device_svc.recording import run_recorded_step
from device_svc.request import Report, Request
from device_svc.scheduler import Capacity, Policy, Scheduler
from device_svc.steps import run_moves, run_step
from device_svc.token_masks import MASK_THREADS

_log = logging.getLogger(__name__)

_REPORTS_IN_FLIGHT: Final = 16
# So many requests, one after another, are not all at fault: the chip is.
_SPOILED_IN_A_ROW: Final = 4


@dataclass(frozen=True, slots=True)
class Cancel:
    key: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave the loop and close the engine; requests that still live are forgotten."""


Message: TypeAlias = Request | Cancel | Stop


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
        self._pacer = Pacer(itl_budget_s)
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
            engine = self._open_engine()
        except BaseException as error:
            self._call(_fail_future, opened, error)
            return
        try:
            try:
                # Keeps no rows of its own prompt.
                _warm_up(engine, self._scheduler(engine, Policy(PrefixMode.OFF)))
            except BaseException as error:
                self._call(_fail_future, opened, error)
                return
            self._call(_resolve_future, opened, engine)
            self._serve(engine, self._scheduler(engine, self._policy))
        finally:
            engine.close()

    def _scheduler(self, engine: Engine, policy: Policy) -> Scheduler:
        capacity = Capacity(
            engine.shape,
            engine.slots,
            engine.decode_rows,
            engine.kv_row_bytes,
            engine.decode_variants,
        )
        return Scheduler(capacity, policy, pacer=self._pacer, clock=self._clock)

    def _serve(self, engine: Engine, scheduler: Scheduler) -> None:
        spoiled_in_a_row = 0
        try:
            while self._take_messages(scheduler):
                step = scheduler.schedule()
                self._publish(engine, scheduler)
                started_s = self._clock()
                run_moves(engine, scheduler.take_moves())
                if step is None:
                    continue
                results = run_recorded_step(engine, step, self._masks)
                elapsed_s = self._clock() - started_s
                for result in results:
                    if isinstance(result, ValueError):
                        _log.error("the engine refused a request", extra={"reason": str(result)})
                    if result is not None:
                        spoiled = isinstance(result, SpoiledRow)
                        spoiled_in_a_row = spoiled_in_a_row + 1 if spoiled else 0
                if spoiled_in_a_row >= _SPOILED_IN_A_ROW:
                    raise EngineFailure(f"{spoiled_in_a_row} requests in a row: {results[-1]}")
                scheduler.postprocess(step, results, elapsed_s)
                run_moves(engine, scheduler.take_moves())
                self._publish(engine, scheduler)
        except Exception as error:
            _log.critical("the engine failed", exc_info=error)
            try:
                scheduler.fail_all()
                self._publish(engine, scheduler)
            finally:
                self._call(self._failed, error)

    def _take_messages(self, scheduler: Scheduler) -> bool:
        """Hand over what has come; sleeps while there is nothing to do. False after Stop."""
        while True:
            try:
                message = self._messages.get(block=not scheduler.busy)
            except queue.Empty:
                return True
            if isinstance(message, Stop):
                return False
            if isinstance(message, Cancel):
                scheduler.cancel(message.key)
                if not scheduler.busy:
                    return True
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


def _resolve_future(future: asyncio.Future[Engine], engine: Engine) -> None:
    if not future.cancelled():
        future.set_result(engine)


def _fail_future(future: asyncio.Future[Engine], error: BaseException) -> None:
    if not future.cancelled():
        future.set_exception(error)
