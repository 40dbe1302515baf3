"""The real device service over the arithmetic engine: in a process of its own, or in a test's.

python -m tests.support.fake_device --listen 127.0.0.1:0 --model DIR --step-us 2000
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from device_svc.engine_api import OpenEngine
from device_svc.process import Endpoints, run_device
from device_svc.service import DeviceConfig, DeviceService
from device_svc.servicer import Identity
from tests.support.fake_core import FakeEngine
from tpuserve import model_dir
from tpuserve.rpc import logging

FAKE_SHA256 = "fa" * 32


def fake_config(
    *, name: str = "fake-0", model: str = "fake", sha256: str = FAKE_SHA256, max_waiting: int = 256
) -> DeviceConfig:
    return DeviceConfig(
        identity=Identity(
            name=name, model_name=model, bmodel_sha256=sha256, chips=(0,), runtime_kind="custom"
        ),
        max_waiting=max_waiting,
    )


@asynccontextmanager
async def fake_device(
    engine: FakeEngine, config: DeviceConfig | None = None, *, listen: str = "127.0.0.1:0"
) -> AsyncIterator[str]:
    """A device service on this event loop; yields its address, stops without grace at the end."""
    service = DeviceService(config or fake_config(), lambda: engine)
    port = await service.start(listen)
    try:
        yield listen if listen.startswith("unix:") else f"127.0.0.1:{port}"
    finally:
        await service.drain(0)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--listen", required=True)
    add("--model", required=True, help="model directory that the device claims to run")
    add("--name", default="fake-0")
    add("--slots", type=int, default=16)
    add("--rows", type=int, help="sequences of one decode launch; default: all slots")
    add("--context", type=int, default=512, help="context length in tokens")
    add("--vocab", type=int, default=1024)
    add("--max-waiting", type=int, default=256)
    add("--step-us", type=float, default=0.0, help="duration of a launch")
    add("--fail-at", type=int, help="number of the launch that fails; the warm-up takes two")
    add("--metrics-listen")
    add("--log-level", default="info")
    arguments = parser.parse_args(argv)
    logging.configure("device", arguments.log_level)
    return run_device(
        functools.partial(_prepare, arguments),
        Endpoints(arguments.listen, arguments.metrics_listen),
    )


def _prepare(arguments: argparse.Namespace) -> tuple[DeviceConfig, OpenEngine]:
    model = model_dir.load(arguments.model)
    config = fake_config(
        name=arguments.name,
        model=model.name,
        sha256=model_dir.bmodel_sha256(model),
        max_waiting=arguments.max_waiting,
    )
    open_engine = functools.partial(
        FakeEngine,
        slots=arguments.slots,
        decode_rows=arguments.rows,
        context_length=arguments.context,
        vocab_size=arguments.vocab,
        launch_s=arguments.step_us / 1e6,
        fail_at=arguments.fail_at,
    )
    return config, open_engine


if __name__ == "__main__":
    sys.exit(main())
