"""Server-sent events."""

from __future__ import annotations

import re
from typing import Final

import msgspec
from aiohttp import web

DONE: Final = b"data: [DONE]\n\n"

_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_encode: Final = msgspec.json.Encoder().encode


def event(data: object) -> bytes:
    """One event whose data is one line of JSON."""
    return b"data: " + _encode(data) + b"\n\n"


def text_event(text: str) -> bytes:
    """One event whose data is `text`, a `data:` line for each of its lines."""
    return "".join(f"data: {line}\r\n" for line in _LINE_END.split(text)).encode() + b"\r\n"


def response(request_id: str) -> web.StreamResponse:
    return web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-cache",
            # nginx would collect tokens otherwise.
            "X-Accel-Buffering": "no",
            "X-Request-Id": request_id,
        }
    )
