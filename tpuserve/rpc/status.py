"""Raised errors become gRPC statuses, in one interceptor; client-side statuses become errors."""

from __future__ import annotations

import asyncio
import inspect
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from tpuserve import errors

_log = logging.getLogger(__name__)

_BY_CODE: dict[grpc.StatusCode, type[errors.TpuserveError]] = {
    error.grpc_code: error
    for error in (
        errors.InvalidArgument,
        errors.UnknownModel,
        errors.FeatureMissing,
        errors.Unauthenticated,
        errors.PermissionDenied,
        errors.Overloaded,
        errors.DeadlineExceeded,
        errors.Unavailable,
    )
}


def from_rpc_error(error: grpc.RpcError, peer: str) -> errors.TpuserveError:
    """The typed error of a failed call to `peer` (a service name, for the text of a lost peer)."""
    # Both the blocking and the asyncio stack's errors answer code() and details(); RpcError itself,
    # their only common base, does not declare them.
    call = cast("grpc.aio.AioRpcError", error)
    code, details = call.code(), call.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE:
        return errors.Unavailable(f"the {peer} is not reachable")
    kind = _BY_CODE.get(code, errors.InternalError)
    if kind is errors.InternalError:
        _log.error("call failed", extra={"peer": peer, "status": str(code), "details": details})
        return errors.InternalError(f"the {peer} failed")
    return kind(details)


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: BaseException) -> None:
    """End the call with the status that belongs to `error`. Always raises."""
    if not isinstance(error, errors.TpuserveError):
        incident = uuid.uuid4().hex
        _log.error("internal error", exc_info=error, extra={"incident": incident})
        error = errors.InternalError(f"internal error, incident {incident}")
    trailers: tuple[tuple[str, str], ...] = ()
    if isinstance(error, errors.Overloaded):
        # The pushback key that gRPC retry policies read.
        trailers = (("grpc-retry-pushback-ms", str(int(error.retry_after_s * 1000))),)
    try:
        await context.abort(error.grpc_code, error.message, trailing_metadata=trailers)
    except grpc.aio.InternalError as failure:
        # Nobody is left to be told: the client's deadline or cancellation was faster, and grpc has
        # yet to tell us.
        raise asyncio.CancelledError from failure


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Turns what a servicer raises into a status; an unknown exception's text stays in the log."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        decode = handler.request_deserializer
        if not handler.request_streaming:
            decode = _decoder(decode)
        codecs = (decode, handler.response_serializer)
        if handler.response_streaming:
            inner = handler.stream_stream if handler.request_streaming else handler.unary_stream
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            # A streaming servicer either yields its replies or writes them on the context.
            guard = _guard_stream if inspect.isasyncgenfunction(inner) else _guard_unary
            return make(guard(inner), *codecs)
        inner = handler.stream_unary if handler.request_streaming else handler.unary_unary
        make = (
            grpc.stream_unary_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return make(_guard_unary(inner), *codecs)


class _Undecodable:
    """Stands for a request that is no message of its type."""


def _decoder(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """grpc answers bytes that it cannot decode with INTERNAL; they are the client's mistake."""

    def guarded(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError:
            return _Undecodable()

    return guarded


def _check(request: Any) -> None:
    if isinstance(request, _Undecodable):
        raise errors.InvalidArgument(
            "the request is malformed: it cannot be decoded, or a string in it is not UTF-8"
        )


def _guard_unary(inner: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def guarded(request: Any, context: Any) -> Any:
        try:
            _check(request)
            return await inner(request, context)
        except (grpc.aio.AbortError, grpc.aio.UsageError):
            raise
        except Exception as error:
            await abort(context, error)

    return guarded


def _guard_stream(
    inner: Callable[..., AsyncGenerator[Any, None]],
) -> Callable[..., AsyncIterator[Any]]:
    async def guarded(request: Any, context: Any) -> AsyncIterator[Any]:
        chunks = inner(request, context)
        try:
            _check(request)
            async for chunk in chunks:
                yield chunk
        except (grpc.aio.AbortError, grpc.aio.UsageError):
            raise
        except Exception as error:
            await abort(context, error)
        finally:
            # A client that goes away ends this generator at its yield; the servicer's own
            # `finally` must run now, not when the garbage collector finds it.
            await chunks.aclose()

    return guarded
