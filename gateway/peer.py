"""What sessions with devices and tokenizers share: messages out, and staying connected."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

import grpc.aio

_log = logging.getLogger(__name__)

_FIRST_BACKOFF_S: Final = 0.05
_MAX_BACKOFF_S: Final = 2.0
# A peer that does not answer GetInfo in this time is asked again.
CONNECT_TIMEOUT_S: Final = 5.0

T = TypeVar("T")


class Outbox(Generic[T]):
    """Messages for one stream, collected while the writer is busy and taken all at once."""

    def __init__(self) -> None:
        self._items: list[T] = []
        self._filled = asyncio.Event()

    def put(self, item: T) -> None:
        self._items.append(item)
        self._filled.set()

    async def take(self) -> list[T]:
        await self._filled.wait()
        self._filled.clear()
        items, self._items = self._items, []
        return items


async def stay_connected(
    serve: Callable[[Callable[[], None]], Awaitable[str]], *, peer: str, address: str
) -> None:
    """Run `serve` for ever, with pauses that grow until it calls what it is handed ("connected").

    `serve` returns why the connection ended. Statuses of a lost peer end it as well; other
    exceptions are bugs and are logged as such, and the peer is tried again.
    """
    backoff_s = _FIRST_BACKOFF_S
    was_connected = False

    def connected() -> None:
        nonlocal backoff_s, was_connected
        backoff_s = _FIRST_BACKOFF_S
        was_connected = True
        _log.info("connected", extra={"peer": peer, "address": address})

    while True:
        try:
            reason = await serve(connected)
        except grpc.aio.AioRpcError as error:
            reason = f"{error.code().name}: {error.details()}"
        except Exception:
            _log.exception("session failed", extra={"peer": peer, "address": address})
            reason = "internal error"
        # Services that start together miss each other for a moment: no reason to warn.
        expected = not was_connected and backoff_s < _MAX_BACKOFF_S
        was_connected = False
        _log.log(
            logging.INFO if expected else logging.WARNING,
            "not connected",
            extra={"peer": peer, "address": address, "reason": reason, "retry_in_s": backoff_s},
        )
        await asyncio.sleep(backoff_s)
        backoff_s = min(2 * backoff_s, _MAX_BACKOFF_S)


async def cancel_and_wait(*tasks: asyncio.Task[None]) -> None:
    """End the tasks; their errors are dropped, for what they did is over."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
