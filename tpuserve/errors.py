"""Every error that reaches a client, with its gRPC status and its HTTP status.

    TpuserveError
    ├── InvalidArgument        INVALID_ARGUMENT     400
    ├── UnknownModel           NOT_FOUND            404
    ├── FeatureMissing         FAILED_PRECONDITION  400
    ├── Unauthenticated        UNAUTHENTICATED      401
    ├── PermissionDenied       PERMISSION_DENIED    403
    ├── Overloaded             RESOURCE_EXHAUSTED   429
    ├── DeadlineExceeded       DEADLINE_EXCEEDED    504
    ├── Unavailable            UNAVAILABLE          503
    └── InternalError          INTERNAL             500

The text of an error is written for the client: it names the value and the limit, never a chip, a
path or another exception's text.
"""

from __future__ import annotations

from typing import ClassVar

import grpc


class TpuserveError(Exception):
    """Base; raise one of the subclasses."""

    grpc_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    http_status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class InvalidArgument(TpuserveError):
    """A value is malformed or out of range; `field` names it."""

    grpc_code = grpc.StatusCode.INVALID_ARGUMENT
    http_status = 400
    kind = "invalid_request_error"


class UnknownModel(TpuserveError):
    grpc_code = grpc.StatusCode.NOT_FOUND
    http_status = 404
    kind = "invalid_request_error"


class FeatureMissing(TpuserveError):
    """The bmodel cannot do what was asked for."""

    grpc_code = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 400
    kind = "invalid_request_error"


class Unauthenticated(TpuserveError):
    grpc_code = grpc.StatusCode.UNAUTHENTICATED
    http_status = 401
    kind = "authentication_error"


class PermissionDenied(TpuserveError):
    grpc_code = grpc.StatusCode.PERMISSION_DENIED
    http_status = 403
    kind = "permission_error"


class Overloaded(TpuserveError):
    """A queue is full; worth another try after `retry_after_s`."""

    grpc_code = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 429
    kind = "rate_limit_error"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(TpuserveError):
    grpc_code = grpc.StatusCode.DEADLINE_EXCEEDED
    http_status = 504
    kind = "timeout_error"


class Unavailable(TpuserveError):
    """No healthy peer can serve the request now."""

    grpc_code = grpc.StatusCode.UNAVAILABLE
    http_status = 503
    kind = "server_error"


class InternalError(TpuserveError):
    """A bug; the text carries the request id only."""
