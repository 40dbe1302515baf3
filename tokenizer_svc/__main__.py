"""`python -m tokenizer_svc --model DIR --listen ADDRESS`."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from functools import partial
from typing import Final

from tokenizer_svc import settings
from tokenizer_svc.loading import load
from tokenizer_svc.metrics import Metrics
from tokenizer_svc.servicer import TokenizerServicer
from tokenizer_svc.settings import Limits, Settings
from tpuserve import model_dir
from tpuserve.rpc import process
from tpuserve.rpc.logging import configure
from tpuserve.rpc.metrics import metrics_endpoint
from tpuserve.rpc.server import Server
from tpuserve.v1 import tokenizer_pb2_grpc

SERVICE: Final = "tpuserve.v1.Tokenizer"

_log = logging.getLogger("tokenizer_svc")


async def serve(options: Settings, stop: asyncio.Event) -> None:
    """Runs until `stop` is set, then drains.

    Raises ValueError when the model directory or its tokenizer is broken, and OSError when an
    address cannot be used.
    """
    model = model_dir.load(options.model)
    limits = Limits()
    metrics = Metrics()
    # Nothing else is running yet that loading could keep waiting.
    loaded = load(
        model.config,
        max_characters=limits.text_bytes,
        tool_parser=options.tool_parser or model.tool_parser,
        reasoning_parser=options.reasoning_parser or model.reasoning_parser,
    )
    servicer = TokenizerServicer(loaded, model=model.name, limits=limits, metrics=metrics)
    server = Server([SERVICE])
    tokenizer_pb2_grpc.add_TokenizerServicer_to_server(servicer, server.grpc_server)
    with metrics_endpoint(metrics.registry, options.metrics_listen) as metrics_port:
        port = await server.start(options.listen)
        await server.set_serving(True)
        _log.info("ready", extra=_addresses(options, port, metrics_port) | {"model": model.name})
        await stop.wait()
        servicer.drain()
        await server.drain(options.grace_s)
        servicer.close()
    _log.info("stopped")


def _addresses(options: Settings, port: int, metrics_port: int) -> dict[str, str]:
    """The addresses with the ports that were really taken."""
    address = options.listen
    if not address.startswith("unix:"):
        address = f"{address.rpartition(':')[0]}:{port}"
    addresses = {"address": address}
    if options.metrics_listen is not None:
        addresses["metrics"] = f"{options.metrics_listen.rpartition(':')[0]}:{metrics_port}"
    return addresses


def main(argv: Sequence[str] | None = None) -> int:
    """The process's exit status."""
    options = settings.parse(argv)
    configure("tokenizer", options.log_level)
    return process.run(partial(serve, options))


if __name__ == "__main__":
    sys.exit(main())
