"""Reading a JSON body within its bounds."""

from __future__ import annotations

import time
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from tpuserve.errors import InvalidArgument

TIMEOUT_HEADER: Final = "X-Request-Timeout-S"

T = TypeVar("T")


class BodyTooLarge(InvalidArgument):
    http_status = 413


async def read(request: web.Request, kind: type[T], *, max_bytes: int) -> T:
    """Raises BodyTooLarge naming both sizes, InvalidArgument for bad UTF-8, JSON or fields."""
    declared = request.content_length
    if declared is not None and declared > max_bytes:
        raise BodyTooLarge(f"the body has {declared} bytes, at most {max_bytes}")
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise BodyTooLarge(f"the body has more than {max_bytes} bytes") from error
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"the body is not UTF-8: bad byte at {error.start}") from error
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidArgument(str(error), field=_field(str(error))) from error
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"the body is not JSON: {error}") from error


def deadline_s(request: web.Request) -> float | None:
    """The `time.monotonic()` value of the header X-Request-Timeout-S (seconds, from receipt)."""
    said = request.headers.get(TIMEOUT_HEADER)
    if said is None:
        return None
    try:
        seconds = float(said)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise InvalidArgument(
            f"{TIMEOUT_HEADER} is {said!r}; it must be a positive number of seconds",
            field=TIMEOUT_HEADER,
        )
    return time.monotonic() + seconds


def _field(text: str) -> str | None:
    """The field that a message of msgspec speaks of, without the root."""
    if "unknown field `" in text or "required field `" in text:
        return text.split("`")[1]
    _, found, path = text.rpartition(" - at `$")
    return path.rstrip("`").lstrip(".") or None if found else None
