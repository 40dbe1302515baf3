"""The outermost frame of a service process: event loop, signals, exit status."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable

import uvloop

_log = logging.getLogger(__name__)

Main = Callable[[asyncio.Event], Awaitable[None]]


def run(main: Main) -> int:
    """Run `main(stop)` until it returns; SIGTERM and SIGINT set `stop`.

    Returns the exit status: 0, or 1 when `main` raised an OSError or ValueError: a start-up problem
    whose text is for the user, shown without a traceback.
    """
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_with_signals(main))
    except (OSError, ValueError) as error:
        _log.error("cannot start", extra={"reason": str(error)})
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    return 0


async def _with_signals(main: Main) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await main(stop)
