"""The cache hint: from both front ends to the device, and which device that is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc
import pytest

from tests.unit.gateway.conftest import Start, World
from tests.unit.gateway.fakes import FakeDevice, eventually
from tpuserve.v1 import chat_pb2, generation_pb2


def generate(text: str, prefix_key: str | None = None) -> generation_pb2.GenerateRequest:
    return generation_pb2.GenerateRequest(text=text, prefix_key=prefix_key)


async def test_grpc_passes_the_key_on(world: World) -> None:
    await world.stub.GenerateOnce(generate("a", "system"))
    part = chat_pb2.ContentPart(text="b")
    message = chat_pb2.Message(role=chat_pb2.ROLE_USER, content=[part])
    await world.stub.ChatOnce(generation_pb2.ChatRequest(messages=[message], prefix_key="chat"))
    await world.stub.GenerateOnce(generate("c"))
    assert [s.prefix_key for s in world.device.submits] == ["system", "chat", ""]
    assert not world.device.submits[-1].HasField("prefix_key")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ],
)
async def test_http_calls_it_prompt_cache_key(
    world: World, path: str, body: dict[str, object]
) -> None:
    reply = await world.http.post(world.url + path, json={**body, "prompt_cache_key": "system"})
    assert reply.status == 200
    assert world.device.submits[0].prefix_key == "system"


async def test_a_long_key_is_refused_by_its_length(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.stub.GenerateOnce(generate("a", "k" * 257))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "257" in (caught.value.details() or "")
    assert world.device.submits == []


async def test_one_key_goes_to_one_device_and_keys_spread(start: Start) -> None:
    devices = [FakeDevice(name=f"dev-{i}") for i in range(3)]
    async with start(*devices) as world:
        keys = [f"key-{n}" for n in range(12)]
        for _ in range(2):
            for key in keys:
                await world.stub.GenerateOnce(generate("a", key))
        owners = {key: names_with(devices, key) for key in keys}
        assert all(len(names) == 1 for names in owners.values()), owners
        assert len({names[0] for names in owners.values()}) > 1


async def test_a_full_device_is_left_for_the_next_one(start: Start) -> None:
    devices = [FakeDevice(name=f"dev-{i}", slots=2) for i in range(2)]
    async with start(*devices) as world:
        for device in devices:
            device.hold()
        calls = [world.stub.GenerateOnce(generate("a", "system")) for _ in range(3)]
        await eventually(lambda: sum(len(device.submits) for device in devices) == 3)
        assert sorted(len(device.submits) for device in devices) == [1, 2]
        for device in devices:
            device.allow(None)
        await asyncio.gather(*calls)


def names_with(devices: Sequence[FakeDevice], key: str) -> list[str]:
    return [d.info.name for d in devices if any(s.prefix_key == key for s in d.submits)]
