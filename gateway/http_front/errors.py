"""Errors as HTTP replies and as events of a stream, in OpenAI's form."""

from __future__ import annotations

import logging
import math
import uuid

import msgspec
from aiohttp import web

from tpuserve.errors import InternalError, Overloaded, TpuserveError

_log = logging.getLogger(__name__)


def error_object(error: TpuserveError) -> dict[str, object]:
    """`code` is the gRPC status in lower case, such as "invalid_argument"."""
    return {
        "error": {
            "message": error.message,
            "type": error.kind,
            "param": error.field,
            "code": error.grpc_code.name.lower(),
        }
    }


def error_reply(error: TpuserveError, *, status: int | None = None) -> web.Response:
    headers = {}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return web.Response(
        status=status or error.http_status,
        body=msgspec.json.encode(error_object(error)),
        content_type="application/json",
        headers=headers,
    )


def as_typed(error: Exception) -> TpuserveError:
    """The error itself, or an InternalError that names the incident in the log."""
    if isinstance(error, TpuserveError):
        return error
    incident = uuid.uuid4().hex
    _log.error("internal error", exc_info=error, extra={"incident": incident})
    return InternalError(f"internal error, incident {incident}")
