"""The life of a device process around `DeviceService`: metrics endpoint, signals, exit status."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from prometheus_client import CollectorRegistry

from device_svc.engine_api import OpenEngine
from device_svc.service import DeviceConfig, DeviceService
from tpuserve.rpc.metrics import metrics_endpoint
from tpuserve.rpc.process import run

_log = logging.getLogger(__name__)

DRAIN_GRACE_S: Final = 30.0
EXIT_FAILED: Final = 3


@dataclass(frozen=True, slots=True)
class Endpoints:
    """listen: `host:port` or `unix:path`. metrics: `host:port`, None for no endpoint."""

    listen: str
    metrics: str | None = None


Prepare: TypeAlias = Callable[[], tuple[DeviceConfig, OpenEngine]]


def run_device(prepare: Prepare, endpoints: Endpoints) -> int:
    """Serve until a signal or a failure.

    Returns the exit status: 0 drained, 1 cannot start, 3 failed.
    `prepare` runs off the event loop; its OSError or ValueError is a start-up problem.
    """
    failed = False

    async def main(stop: asyncio.Event) -> None:
        nonlocal failed
        config, open_engine = await asyncio.to_thread(prepare)
        failed = await _serve(config, open_engine, endpoints, stop)

    status = run(main)
    return EXIT_FAILED if failed else status


async def _serve(
    config: DeviceConfig, open_engine: OpenEngine, endpoints: Endpoints, stop: asyncio.Event
) -> bool:
    """Whether the engine failed."""
    registry = CollectorRegistry()
    with metrics_endpoint(registry, endpoints.metrics) as metrics_port:
        service = DeviceService(config, open_engine, registry=registry)
        port = await service.start(endpoints.listen)
        ready = {
            "address": _bound(endpoints.listen, port),
            "model": config.identity.model_name,
            "device": config.identity.name,
        }
        if endpoints.metrics is not None:
            ready["metrics_address"] = _bound(endpoints.metrics, metrics_port)
        _log.info("ready", extra=ready)
        await _first_of(stop, service.failed)
        if service.failed.is_set():
            await service.abandon()
            return True
        await service.drain(DRAIN_GRACE_S)
        return False


def _bound(address: str, port: int) -> str:
    """The address with the port that was chosen when 0 was asked for."""
    if address.startswith("unix:"):
        return address
    return f"{address.rpartition(':')[0]}:{port}"


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
