"""The device service as a whole: server, sessions, engine thread; start, failure and drain."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from device_svc.engine_api import ChipReading, Engine, OpenEngine
from device_svc.engine_thread import EngineThread
from device_svc.format_metrics import FormatMetrics
from device_svc.formats import Formats
from device_svc.image_reader import ImageReader
from device_svc.metrics import ChipCollector, LoadCollector, StepMetrics
from device_svc.prefix_cache import PrefixMode
from device_svc.request import Report
from device_svc.scheduler import Policy
from device_svc.servicer import SERVICE_NAME, DeviceServicer, Identity, Serving
from device_svc.sessions import MAX_UNREAD_EVENTS, Sessions
from device_svc.swap import ModelPlan, SwapConfig
from device_svc.swap_metrics import SwapMetrics
from device_svc.swapper import Host, ModelSwapper
from tpuserve.errors import Unavailable
from tpuserve.rpc.server import Server
from tpuserve.v1 import device_pb2_grpc

_log = logging.getLogger(__name__)

# For sessions to read the last events, once every request has ended.
_FLUSH_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """max_waiting: requests beyond the slots. itl_budget_s: see `device_svc.pacing`.
    allow_dumps: whether DumpTensors is answered.
    swap: None where the model stays.
    """

    identity: Identity
    max_waiting: int = 256
    itl_budget_s: float = 0.25
    policy: Policy = field(default_factory=Policy)
    max_unread_events: int = MAX_UNREAD_EVENTS
    allow_dumps: bool = False
    swap: SwapConfig | None = None


class DeviceService:
    """`start`, then wait for `failed` or for the wish to stop, then `drain` or `abandon`."""

    def __init__(
        self,
        config: DeviceConfig,
        open_engine: OpenEngine,
        *,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._config = config
        self._registry = registry or CollectorRegistry()
        self._metrics = StepMetrics(self._registry, config.identity.chips)
        self._server = Server([SERVICE_NAME])
        self._servicer = DeviceServicer(config.identity)
        device_pb2_grpc.add_DeviceServicer_to_server(self._servicer, self._server.grpc_server)
        self._thread = EngineThread(
            open_engine,
            itl_budget_s=config.itl_budget_s,
            policy=config.policy,
            deliver=self._deliver,
            failed=self._on_failed,
        )
        self._sessions: Sessions | None = None
        self._formats: Formats | None = None
        self._images: ImageReader | None = None
        self._engine: Engine | None = None
        self._swapper: ModelSwapper | None = None
        self._collectors: tuple[Collector, ...] = ()
        self.failed = asyncio.Event()

    async def start(self, address: str) -> int:
        """Listen, load, warm up, serve; returns the port, 0 for a Unix socket.

        The server answers health checks with NOT_SERVING while the model loads. Raises OSError for
        the address and ValueError for the model or the chips.
        """
        port = await self._server.start(address)
        try:
            engine = await self._thread.start()
        except BaseException:
            await self._server.drain(0)
            raise
        config = self._config
        self._sessions = Sessions(
            self._thread.send,
            slots=engine.slots,
            context_length=engine.shape.context_length,
            max_waiting=config.max_waiting,
            max_unread_events=config.max_unread_events,
            longest_step_s=lambda: self._thread.longest_step_s,
        )
        sessions = self._sessions
        self._format_metrics = FormatMetrics(self._registry)
        if config.swap is not None:
            host = Host(
                sessions,
                config.policy.prefix,
                self._thread.swap,
                self._read_chips,
                self._server.set_serving,
                self._install_model,
            )
            self._swapper = ModelSwapper(config.swap, host, SwapMetrics(self._registry))
        self._install(engine, config.identity)
        await self._server.set_serving(True)
        return port

    def _install(self, engine: Engine, identity: Identity) -> None:
        """Make the engine what the servicer and the metrics speak of."""
        assert self._sessions is not None
        config, sessions = self._config, self._sessions
        for collector in self._collectors:
            self._registry.unregister(collector)
        self._collectors = (
            LoadCollector(lambda: sessions.load, slots=engine.slots),
            ChipCollector(engine.chip_reading, config.identity.chips),
        )
        for collector in self._collectors:
            self._registry.register(collector)
        self._metrics.engine_changed()
        self._close_workers()
        self._engine = engine
        self._formats = Formats(engine.shape, self._format_metrics)
        self._images = ImageReader(identity.images, engine.shape.vision)
        reuses = engine.shape.history and config.policy.prefix is not PrefixMode.OFF
        serving = Serving(
            engine,
            sessions,
            self._formats,
            self._images,
            config.max_waiting,
            reuses,
            allows_dumps=config.allow_dumps,
            swapper=self._swapper,
        )
        self._servicer.serve(serving, identity)

    def _install_model(self, engine: Engine, model: ModelPlan) -> None:
        assert self._sessions is not None
        if engine is self._engine:
            return
        self._sessions.resize(slots=engine.slots, context_length=engine.shape.context_length)
        identity = replace(
            self._config.identity,
            model_name=model.name,
            bmodel_sha256=model.sha256,
            images=model.images,
        )
        self._install(engine, identity)

    def _read_chips(self) -> list[ChipReading]:
        engine = self._engine
        assert engine is not None
        return [engine.chip_reading(chip) for chip in self._config.identity.chips]

    async def drain(self, grace_s: float) -> None:
        """Refuse new requests, let running and waiting ones finish within `grace_s`, stop.

        What has not finished by then ends with its session, UNAVAILABLE, so that its owner may
        resume it elsewhere.
        """
        if self._swapper is not None:
            await self._swapper.stop()
        await self._server.set_serving(False)
        if self._sessions is not None:
            self._sessions.refuse_submits()
            if not await self._sessions.wait_idle(grace_s):
                _log.warning("the grace is over", extra={"grace_s": grace_s})
            self._sessions.end_all(Unavailable("the device stopped"))
        await self._stop()

    async def abandon(self) -> None:
        """Stop after a failure of the engine: sessions get what was queued, then UNAVAILABLE."""
        await self._server.set_serving(False)
        await self._stop()

    async def _stop(self) -> None:
        await self._server.drain(_FLUSH_S)
        await self._thread.stop()
        self._close_workers()

    def _close_workers(self) -> None:
        if self._formats is not None:
            self._formats.close()
        if self._images is not None:
            self._images.close()

    def _deliver(self, report: Report) -> None:
        assert self._sessions is not None  # reports follow requests
        self._sessions.deliver(report)
        self._metrics.observe(report)

    def _on_failed(self, error: BaseException) -> None:
        if self._sessions is not None:
            self._sessions.end_all(Unavailable("the device failed"))
        self.failed.set()
