"""Order of service, limits, lookahead, slow readers, drain."""

from __future__ import annotations

import asyncio
import functools
import json
import socket
from typing import Any

import grpc
import grpc.aio
import pytest

from gateway.device_session import LOOKAHEAD
from gateway.dispatcher import Dispatcher
from tests.unit.gateway.conftest import Start, World
from tests.unit.gateway.fakes import FakeDevice, FakeTokenizer, eventually
from tpuserve.v1 import generation_pb2


def ask(world: World, text: str, priority: int = 0) -> Any:
    return world.stub.GenerateOnce(
        generation_pb2.GenerateRequest(
            text=text, priority=generation_pb2.Priority.ValueType(priority)
        )
    )


def submitted(device: FakeDevice, count: int) -> bool:
    return len(device.submits) == count


def waits(dispatcher: Dispatcher, count: int) -> bool:
    return dispatcher.waiting == count


async def read_all(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_higher_classes_go_first_and_one_class_in_order(start: Start) -> None:
    device = FakeDevice(slots=1)
    async with start(device) as world:
        device.hold()
        dispatcher = world.gateway.registry.resolve("").dispatcher
        calls = []
        for i in range(1 + LOOKAHEAD):
            calls.append(ask(world, f"first{i}"))
            await eventually(functools.partial(submitted, device, i + 1))
        waiting = LOOKAHEAD
        for text, priority in (
            ("bulk", generation_pb2.PRIORITY_BULK),
            ("default a", generation_pb2.PRIORITY_UNSPECIFIED),
            ("interactive", generation_pb2.PRIORITY_INTERACTIVE),
            ("default b", generation_pb2.PRIORITY_DEFAULT),
            ("system", generation_pb2.PRIORITY_SYSTEM),
        ):
            calls.append(ask(world, text, priority))
            waiting += 1
            await eventually(functools.partial(waits, dispatcher, waiting))
        assert dispatcher.running == 1
        assert len(device.submits) == 1 + LOOKAHEAD
        device.allow(None)
        await asyncio.gather(*calls)
        order = [bytes(s.prompt_ids).decode() for s in device.submits[1 + LOOKAHEAD :]]
        assert order == ["system", "interactive", "default a", "default b", "bulk"]


async def test_a_full_queue_refuses_with_a_retry_hint(start: Start) -> None:
    device = FakeDevice(slots=1)
    async with start(device, max_waiting=2) as world:
        device.hold()
        calls = [ask(world, f"long{i}") for i in range(1 + LOOKAHEAD)]
        await eventually(lambda: len(device.submits) == 1 + LOOKAHEAD)
        calls += [ask(world, f"long{i}") for i in range(2)]
        dispatcher = world.gateway.registry.resolve("").dispatcher
        await eventually(lambda: dispatcher.waiting == LOOKAHEAD + 2)
        encodes = world.tokenizer.encodes
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(world, "one too many")
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.details() == "2 requests wait for model fake, at most 2"
        trailers = dict(caught.value.trailing_metadata())
        assert trailers["grpc-retry-pushback-ms"] == "1000"
        async with world.http.post(f"{world.url}/v1/completions", json={"prompt": "x"}) as reply:
            assert reply.status == 429
            assert reply.headers["Retry-After"] == "1"
            assert (await reply.json())["error"]["type"] == "rate_limit_error"
        assert world.tokenizer.encodes == encodes
        for call in calls:
            call.cancel()
        await eventually(lambda: dispatcher.waiting == dispatcher.running == 0)
        device.allow(None)
        assert (await ask(world, "room")).completions[0].text == "ROOM"


async def test_load_is_spread_over_devices(start: Start) -> None:
    devices = [FakeDevice(name=f"dev-{i}", slots=2) for i in range(2)]
    async with start(*devices) as world:
        for device in devices:
            device.hold()
        calls = [ask(world, f"p{i}") for i in range(4)]
        await eventually(lambda: sum(len(d.submits) for d in devices) == 4)
        assert [len(d.submits) for d in devices] == [2, 2]
        for device in devices:
            device.allow(None)
        await asyncio.gather(*calls)


async def test_a_frame_makes_one_message_to_the_tokenizer(start: Start) -> None:
    device = FakeDevice(slots=4)
    async with start(device) as world:
        device.hold()
        calls = [ask(world, "long" + "x" * i) for i in range(4)]
        await eventually(lambda: len(device.running) == 4)
        device.allow(1)
        await eventually(lambda: world.tokenizer.commands)
        assert [len(c.items) for c in world.tokenizer.commands] == [4]
        for call in calls:
            call.cancel()


@pytest.mark.parametrize("front", ["grpc", "http"])
async def test_a_reader_that_does_not_read_harms_itself_only(start: Start, front: str) -> None:
    device = FakeDevice(slots=10, context_length=1 << 31)
    tokenizer = FakeTokenizer()
    async with start(device, tokenizer=tokenizer, max_buffered_bytes=40_000) as world:
        device.hold()
        if front == "grpc":
            request = generation_pb2.GenerateRequest(
                text="long", logprobs=generation_pb2.LogprobParams(top=20)
            )
            call = world.stub.Generate(request)
            await call.read()
        else:
            # The kernel's buffers come on top of the gateway's; keep them small.
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", world.gateway.http_port))
            reader, writer = await asyncio.open_connection(sock=connection)
            body = json.dumps({"prompt": "long", "stream": True, "logprobs": 20, "n": 8}).encode()
            head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
            writer.write(head % len(body) + body)
            await reader.readline()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
        device.allow(None)
        metrics = world.gateway.metrics
        while not device.cancels:
            reply = await ask(world, "neighbour")
            assert reply.completions[0].text == "NEIGHBOUR"
        await eventually(lambda: not device.running)
        if front == "grpc":
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read_all(call)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "reads too slowly" in str(caught.value.details())
            assert metrics.failures["RESOURCE_EXHAUSTED", True] == 1
        else:
            writer.transport.abort()


async def test_drain_finishes_what_runs_and_refuses_what_comes(start: Start) -> None:
    device = FakeDevice()
    async with start(device) as world:
        object.__setattr__(world.gateway.settings, "drain_grace_s", 10.0)
        device.hold()
        running = ask(world, "abc")
        await eventually(lambda: device.running)
        draining = asyncio.create_task(world.gateway.drain())
        await eventually(lambda: world.gateway.service.draining)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(world, "late")
        assert caught.value.details() == "the gateway is about to stop"
        async with world.http.get(f"{world.url}/ready") as response:
            assert response.status == 503
            assert "about to stop" in (await response.json())["reason"]
        device.allow(None)
        assert (await running).completions[0].text == "ABC"
        await draining


async def test_a_cancelled_request_does_not_take_the_slots_it_frees(start: Start) -> None:
    device = FakeDevice(slots=1)
    async with start(device) as world:
        device.hold()
        dispatcher = world.gateway.registry.resolve("").dispatcher
        call = world.stub.GenerateOnce(generation_pb2.GenerateRequest(text="long", n=8))
        await eventually(lambda: dispatcher.waiting + dispatcher.running == 8)
        await eventually(lambda: len(device.submits) == 1 + LOOKAHEAD)
        other = ask(world, "other")
        await eventually(lambda: dispatcher.waiting + dispatcher.running == 9)
        call.cancel()
        await eventually(lambda: len(device.cancels) == 1 + LOOKAHEAD)
        device.allow(None)
        assert (await other).completions[0].text == "OTHER"
        assert len(device.submits) == 1 + LOOKAHEAD + 1
