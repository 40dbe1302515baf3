"""The shared server over a real channel: statuses, health, reflection, drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tpuserve import errors
from tpuserve.rpc.options import channel_options
from tpuserve.rpc.server import AddressError, Server
from tpuserve.rpc.status import abort, from_rpc_error
from tpuserve.v1 import device_pb2, device_pb2_grpc, dump_pb2

SERVICE = "tpuserve.v1.Device"


class Device(device_pb2_grpc.DeviceServicer):
    """Raises what it is told to; its session echoes each command as one rejection."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.release = asyncio.Event()
        self.reached = asyncio.Event()
        self.ended = asyncio.Event()

    async def GetInfo(self, request: Any, context: Any) -> device_pb2.DeviceInfo:
        if self.error is not None:
            raise self.error
        return device_pb2.DeviceInfo(name="d")

    async def GetLoad(self, request: Any, context: Any) -> device_pb2.Load:
        self.reached.set()
        await self.release.wait()
        return device_pb2.Load(running=1)

    async def PutVocabulary(self, request: Any, context: Any) -> device_pb2.PutVocabularyReply:
        return device_pb2.PutVocabularyReply()

    async def SwapModel(self, request: Any, context: Any) -> device_pb2.SwapModelReply:
        return device_pb2.SwapModelReply()

    async def DumpTensors(
        self, request: Any, context: Any
    ) -> AsyncIterator[dump_pb2.DumpTensorsReply]:
        yield dump_pb2.DumpTensorsReply()

    async def Session(self, requests: Any, context: Any) -> AsyncIterator[device_pb2.Event]:
        try:
            async for _ in requests:
                if self.error is not None:
                    raise self.error
                yield device_pb2.Event(rejected=device_pb2.Rejected(request_id="x"))
        finally:
            self.ended.set()


@pytest.fixture
async def served() -> AsyncIterator[tuple[Server, Device, grpc.aio.Channel]]:
    server, device = Server([SERVICE]), Device()
    device_pb2_grpc.add_DeviceServicer_to_server(device, server.grpc_server)
    port = await server.start("127.0.0.1:0")
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=channel_options())
    async with channel:
        yield server, device, channel
    await server.drain(0)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidArgument("top_p is 2, must be at most 1"), "INVALID_ARGUMENT"),
        (errors.UnknownModel("no model x"), "NOT_FOUND"),
        (errors.FeatureMissing("no sampling"), "FAILED_PRECONDITION"),
        (errors.Unauthenticated("no key"), "UNAUTHENTICATED"),
        (errors.PermissionDenied("not yours"), "PERMISSION_DENIED"),
        (errors.Overloaded("full"), "RESOURCE_EXHAUSTED"),
        (errors.DeadlineExceeded("late"), "DEADLINE_EXCEEDED"),
        (errors.Unavailable("none"), "UNAVAILABLE"),
    ],
)
async def test_raised_errors_become_statuses(
    served: tuple[Server, Device, grpc.aio.Channel], error: errors.TpuserveError, code: str
) -> None:
    _, device, channel = served
    device.error = error
    stub = device_pb2_grpc.DeviceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetInfo(device_pb2.GetDeviceInfoRequest())
    assert caught.value.code().name == code
    assert caught.value.details() == error.message
    if code != "UNAVAILABLE":
        again = from_rpc_error(caught.value, "device")
        assert (type(again), again.message) == (type(error), error.message)


async def test_the_retry_delay_travels_in_the_trailers(
    served: tuple[Server, Device, grpc.aio.Channel],
) -> None:
    _, device, channel = served
    device.error = errors.Overloaded("full", retry_after_s=1.5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await device_pb2_grpc.DeviceStub(channel).GetInfo(device_pb2.GetDeviceInfoRequest())
    assert ("grpc-retry-pushback-ms", "1500") in list(caught.value.trailing_metadata())


class GoneContext:
    """A call whose client went away a moment ago: grpc cannot send its status any more."""

    async def abort(self, code: Any, details: str, trailing_metadata: Any) -> None:
        raise grpc.aio.InternalError("execute_batch")


async def test_an_error_that_nobody_waits_for_is_a_cancelled_call() -> None:
    # grpc logs other exceptions as a servicer's bugs.
    with pytest.raises(asyncio.CancelledError):
        await abort(cast("Any", GoneContext()), errors.DeadlineExceeded("late"))


async def test_a_bug_does_not_tell_its_text(
    served: tuple[Server, Device, grpc.aio.Channel],
) -> None:
    _, device, channel = served
    device.error = KeyError("secret")
    stub = device_pb2_grpc.DeviceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetInfo(device_pb2.GetDeviceInfoRequest())
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in (caught.value.details() or "")
    call = stub.Session(iter([device_pb2.Command()]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_a_cancelled_stream_runs_its_finally(
    served: tuple[Server, Device, grpc.aio.Channel],
) -> None:
    _, device, channel = served
    call = device_pb2_grpc.DeviceStub(channel).Session()
    await call.write(device_pb2.Command())
    event = await call.read()
    assert isinstance(event, device_pb2.Event)
    assert event.rejected.request_id == "x"
    call.cancel()
    await asyncio.wait_for(device.ended.wait(), 5)


async def test_health_follows_serving_and_drain(
    served: tuple[Server, Device, grpc.aio.Channel],
) -> None:
    server, device, channel = served
    health: Any = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.NOT_SERVING
    await server.set_serving(True)
    assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
    watch = health.Watch(request)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    running = asyncio.ensure_future(
        device_pb2_grpc.DeviceStub(channel).GetLoad(device_pb2.GetLoadRequest())
    )
    await asyncio.wait_for(device.reached.wait(), 5)
    drained = asyncio.create_task(server.drain(20))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()
    device.release.set()
    assert (await running).running == 1
    await asyncio.wait_for(drained, 10)


async def test_the_process_is_alive_while_its_service_is_not_ready(
    served: tuple[Server, Device, grpc.aio.Channel],
) -> None:
    server, _, channel = served
    health: Any = health_pb2_grpc.HealthStub(channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(service=""))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    # A gateway that lost its devices must not be restarted for it.
    await server.set_serving(True)
    await server.set_serving(False)
    drained = asyncio.create_task(server.drain(20))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()
    await asyncio.wait_for(drained, 10)


async def test_reflection_lists_the_service(
    served: tuple[Server, Device, grpc.aio.Channel],
) -> None:
    _, _, channel = served
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    reply = await stub.ServerReflectionInfo(iter([request])).read()
    names = {service.name for service in reply.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names


async def test_an_address_in_use_is_named(
    served: tuple[Server, Device, grpc.aio.Channel],
) -> None:
    first, second = Server([SERVICE]), Server([SERVICE])
    port = await first.start("127.0.0.1:0")
    with pytest.raises(AddressError, match=f"127.0.0.1:{port}"):
        await second.start(f"127.0.0.1:{port}")
    await first.drain(0)
    await second.drain(0)
