"""`python -m gateway`: see `--help`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from gateway.app import Gateway
from gateway.settings import parse
from tpuserve.rpc import logging as json_logging
from tpuserve.rpc import process


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT, then drain; returns the exit status."""
    settings = parse(argv)
    json_logging.configure("gateway", settings.log_level)

    async def serve(stop: asyncio.Event) -> None:
        gateway = Gateway(settings)
        try:
            await gateway.start()
            await stop.wait()
        finally:
            await gateway.drain()

    return process.run(serve)


if __name__ == "__main__":
    sys.exit(main())
