"""Changes the resident model while the process goes on; one change at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from device_svc.engine_api import ChipReading, Engine
from device_svc.engine_swap import Exchange, Exchanged
from device_svc.prefix_cache import PrefixMode
from device_svc.sessions import Sessions
from device_svc.swap import (
    ModelPlan,
    SwapConfig,
    allowed_directory,
    check_expected,
    exchange_for,
)
from device_svc.swap_metrics import SwapMetrics
from tpuserve.errors import (
    FeatureMissing,
    InvalidArgument,
    Overloaded,
    TpuserveError,
    Unavailable,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SwapRequest:
    """As `tpuserve.v1.SwapModelRequest`."""

    directory: str
    sha256: str = ""
    preempt: bool = False


@dataclass(frozen=True, slots=True)
class Swapped:
    """As `tpuserve.v1.SwapModelReply`; old and new may be equal."""

    old: ModelPlan
    new: ModelPlan
    alongside: bool
    kept_tokens: int
    pause_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class Host:
    """What the swapper moves. install: make an engine and its model what is served."""

    sessions: Sessions
    prefix: PrefixMode
    exchange: Callable[[Exchange], Awaitable[Exchanged]]
    read_chips: Callable[[], Sequence[ChipReading]]
    set_serving: Callable[[bool], Awaitable[None]]
    install: Callable[[Engine, ModelPlan], None]


class ModelSwapper:
    def __init__(self, config: SwapConfig, host: Host, metrics: SwapMetrics) -> None:
        self._config = config
        self._host = host
        self._metrics = metrics
        self._resident = config.resident
        self._task: asyncio.Task[Swapped] | None = None
        self._committed = False

    async def swap(self, asked: SwapRequest) -> Swapped:
        """Raises TpuserveError, and then serves what it served before.

        A caller that goes away while requests are being finished takes the change back; from then
        on it is carried through.
        """
        if self._task is not None:
            raise Overloaded("the model is being changed already", retry_after_s=1.0)
        self._committed = False
        task = self._task = asyncio.create_task(self._swap(asked))
        task.add_done_callback(self._over)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise Unavailable("the device is about to stop") from None
            if not self._committed:
                task.cancel()
            raise

    async def stop(self) -> None:
        """Take back a change that waits for requests, wait for one that is under way."""
        if self._task is None:
            return
        if not self._committed:
            self._task.cancel()
        await asyncio.wait((self._task,))

    def _over(self, task: asyncio.Task[Swapped]) -> None:
        self._task = None
        if not task.cancelled():
            # Its caller may be gone.
            task.exception()

    async def _swap(self, asked: SwapRequest) -> Swapped:
        started_s = time.monotonic()
        try:
            new = await asyncio.to_thread(self._plan, asked)
            exchange = exchange_for(
                self._resident,
                new,
                self._host.prefix,
                await asyncio.to_thread(self._host.read_chips),
                self._config.chip_bytes,
            )
        except TpuserveError:
            self._metrics.refused.inc()
            raise
        done = await self._stop_and_exchange(exchange, new, preempt=asked.preempt)
        total_s = time.monotonic() - started_s
        old, self._resident = self._resident, new
        self._metrics.done.inc()
        self._metrics.seconds.observe(total_s)
        self._metrics.pause_seconds.observe(done.pause_s)
        _log.info(
            "model changed",
            extra={
                "model": new.name,
                "bmodel_sha256": new.sha256,
                "alongside": exchange.alongside,
                "kept_tokens": done.kept_tokens,
                "pause_s": done.pause_s,
            },
        )
        return Swapped(old, new, exchange.alongside, done.kept_tokens, done.pause_s, total_s)

    def _plan(self, asked: SwapRequest) -> ModelPlan:
        directory = allowed_directory(asked.directory, self._config.roots)
        try:
            plan = self._config.plan(directory)
        except (OSError, ValueError) as error:
            raise InvalidArgument(str(error), field="model_directory") from error
        check_expected(plan, asked.sha256)
        return plan

    async def _stop_and_exchange(
        self, exchange: Exchange, new: ModelPlan, *, preempt: bool
    ) -> Exchanged:
        host, sessions = self._host, self._host.sessions
        await host.set_serving(False)
        sessions.refuse_submits()
        serves = self._resident
        try:
            if preempt:
                sessions.end_open(Unavailable("the device changes its model"))
            await sessions.wait_idle(None)
            self._committed = True
            done = await host.exchange(exchange)
            if done.error is None:
                serves = new
                # Their gateways come back and ask what the device is now.
                sessions.end_open(Unavailable("the device has another model now"))
        except asyncio.CancelledError:
            sessions.accept_again()
            await host.set_serving(True)
            raise
        except Exception as error:
            # No engine could be opened: the process is about to end.
            self._metrics.failed.inc()
            raise Unavailable("the device lost its model") from error
        host.install(done.engine, serves)
        sessions.accept_again()
        await host.set_serving(True)
        if done.error is not None:
            self._metrics.failed.inc()
            raise FeatureMissing(
                f"model {new.name} could not be loaded: {done.error}; model {serves.name} serves on"
            ) from done.error
        return done
