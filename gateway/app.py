"""The parts of a gateway, put together, started and drained."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from gateway.device_session import DeviceSession
from gateway.exposition import make_registry
from gateway.grpc_front.servicer import SERVICE_NAME, GenerationServicer
from gateway.http_front.app import HttpFront
from gateway.metrics import GatewayMetrics, Histogram
from gateway.models import ModelRegistry
from gateway.peer import cancel_and_wait
from gateway.service import GenerationService
from gateway.settings import Settings
from gateway.tokenizer_client import TokenizerClient
from tpuserve.rpc.server import Server
from tpuserve.v1 import generation_pb2_grpc

_log = logging.getLogger(__name__)

_CANARY_PERIOD_S: Final = 0.1
_LAST_BYTES_S: Final = 1.0


class Gateway:
    """`start` listens, `drain` stops. Ports are known after `start`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = GatewayMetrics()
        self._changed = asyncio.Event()
        self.registry = ModelRegistry(
            max_waiting=settings.max_waiting,
            failover_wait_s=settings.failover_wait_s,
            on_change=self._changed.set,
        )
        self.devices = [
            DeviceSession(a, listener=self.registry, stall_timeout_s=settings.stall_timeout_s)
            for a in settings.devices
        ]
        self.tokenizers = [TokenizerClient(a, listener=self.registry) for a in settings.tokenizers]
        self.service = GenerationService(
            self.registry, metrics=self.metrics, max_buffered_bytes=settings.max_buffered_bytes
        )
        self.grpc_port = 0
        self.http_port = 0
        self._server = Server([SERVICE_NAME])
        generation_pb2_grpc.add_GenerationServicer_to_server(
            GenerationServicer(self.service), self._server.grpc_server
        )
        self._http = HttpFront(
            self.service,
            readiness=self.readiness,
            devices=self.devices,
            registry=make_registry(self.registry, self.devices, self.metrics),
            max_body_bytes=settings.max_body_bytes,
            image_hosts=settings.image_hosts,
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Raises OSError naming the address when one cannot be listened on."""
        self.grpc_port = await self._server.start(self.settings.grpc_listen)
        self.http_port = await self._http.start(self.settings.http_listen)
        self._tasks = [
            *(asyncio.create_task(device.run()) for device in self.devices),
            *(asyncio.create_task(tokenizer.run()) for tokenizer in self.tokenizers),
            asyncio.create_task(self._report_health()),
            asyncio.create_task(_watch_event_loop(self.metrics.event_loop_delay_s)),
        ]
        _log.info(
            "ready",
            extra={
                "grpc": _with_port(self.settings.grpc_listen, self.grpc_port),
                "http": _with_port(self.settings.http_listen, self.http_port),
            },
        )

    def readiness(self) -> tuple[bool, dict[str, object]]:
        """Whether a request could be served now, and per device and model why or why not."""
        ready_models = sorted(model.name for model in self.registry if model.ready)
        ready = bool(ready_models) and not self.service.draining
        devices = {device.address: device.state for device in self.devices}
        tokenizers = {t.address: "ready" if t.ready else "not connected" for t in self.tokenizers}
        state: dict[str, object] = {
            "ready": ready,
            "models": ready_models,
            "devices": devices,
            "tokenizers": tokenizers,
        }
        if self.service.draining:
            state["reason"] = "the gateway is about to stop"
        elif not ready:
            bad = [f"device {a}: {s}" for a, s in devices.items() if s != "ready"]
            bad += [f"tokenizer {a}: {s}" for a, s in tokenizers.items() if s != "ready"]
            state["reason"] = "no model has a healthy device and a tokenizer; " + "; ".join(bad)
        return ready, state

    async def drain(self) -> None:
        """Not ready, refuse new requests, let running ones finish within the grace, stop."""
        self.service.draining = True
        self._changed.set()
        try:
            await asyncio.wait_for(self.service.idle.wait(), self.settings.drain_grace_s)
        except asyncio.TimeoutError:
            _log.warning("cutting off", extra={"requests": self.service.active})
        # What is left are replies whose last bytes are on their way, or those cut off.
        await self._server.drain(_LAST_BYTES_S)
        await self._http.stop()
        self.service.close()
        await cancel_and_wait(*self._tasks)

    async def _report_health(self) -> None:
        """gRPC health follows readiness."""
        said: bool | None = None
        while True:
            ready, _ = self.readiness()
            if ready != said:
                said = ready
                await self._server.set_serving(ready)
                _log.info("serving" if ready else "not serving")
            await self._changed.wait()
            self._changed.clear()


async def _watch_event_loop(delay_s: Histogram) -> None:
    while True:
        due_s = time.monotonic() + _CANARY_PERIOD_S
        await asyncio.sleep(_CANARY_PERIOD_S)
        delay_s.observe(max(0.0, time.monotonic() - due_s))


def _with_port(address: str, port: int) -> str:
    if address.startswith("unix:"):
        return address
    return f"{address.rpartition(':')[0]}:{port}"
