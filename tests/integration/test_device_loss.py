"""The gateway over device processes on simulated chips: killed, hung, and poisoned by a request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.integration.test_simchip_device import VOCAB_SIZE, Device, device
from tests.support.fake_core import expected_tokens
from tests.support.served_engine import ServedEngine
from tests.support.simchip import PROFILES, completion
from tests.unit.gateway.conftest import World, running
from tests.unit.gateway.fakes import VOCAB, FakeTokenizer, eventually
from tpuserve.v1 import generation_pb2

BATCHED = PROFILES / "tiny-b16.toml"
TOKENS = 24
POISON = 250


class Running:
    """A device process as the gateway's fixture wants it; it is up already."""

    def __init__(self, served: Device) -> None:
        self.served = served
        self.address = served.address

    async def start(self) -> None:
        pass

    async def kill(self) -> None:
        self.served.process.process.kill()

    @property
    def lives(self) -> bool:
        return self.served.process.process.poll() is None


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Any]:
    """`processes(fault, …)` starts a device for each profile extension."""
    with ExitStack() as stack:

        def start(*faults: str, profile: Path = BATCHED) -> list[Running]:
            started = []
            for number, more in enumerate(faults):
                directory = tmp_path / str(number)
                directory.mkdir()
                text = f"\n[[fault]]\n{more}\n" if more else ""
                started.append(
                    Running(stack.enter_context(device(directory, more=text, profile=profile)))
                )
            return started

        yield start


@asynccontextmanager
async def gateway(devices: list[Running], **settings: Any) -> AsyncIterator[World]:
    fleet: Any = devices
    async with running(*fleet, tokenizer=FakeTokenizer(model="profile"), **settings) as world:
        yield world


def request(prompt: list[int], max_tokens: int = TOKENS) -> generation_pb2.GenerateRequest:
    stopping = generation_pb2.StoppingParams(max_tokens=max_tokens, ignore_eos=True)
    ids = generation_pb2.TokenIds(ids=prompt)
    return generation_pb2.GenerateRequest(token_ids=ids, stopping=stopping)


async def tokens(world: World, prompt: list[int], max_tokens: int = TOKENS) -> list[int]:
    ids: list[int] = []
    async for chunk in world.stub.Generate(request(prompt, max_tokens)):
        ids += chunk.delta.token_ids
    return ids


def harmless(count: int, max_tokens: int) -> list[list[int]]:
    """Prompts that are not followed by the poison."""
    prompts = [[n, 3] for n in range(200)]
    good = [p for p in prompts if POISON not in [*p, *completion(p, max_tokens, VOCAB_SIZE)]]
    return good[:count]


def after(delivered: int, kind: str) -> str:
    """A fault at the head's launch that would bring the next token; the warm-up takes two."""
    return f'net = "lm_head"\nlaunch = {delivered + 3}\nkind = "{kind}"'


@pytest.mark.parametrize("delivered", [0, 1, 13])
async def test_a_process_killed_after_so_many_tokens_does_not_show(
    processes: Any, delivered: int
) -> None:
    """It hangs there, so that the number is exact; then it is killed."""
    hanging, sound = processes(after(delivered, "hang"), "")
    async with gateway([hanging, sound]) as world:
        first, second = world.gateway.devices
        second.refusal = "not yet"
        call = asyncio.create_task(tokens(world, [5, 6, 7]))
        await eventually(lambda: any(s.accepted for s in first.sequences))
        [sequence] = first.sequences
        await eventually(lambda: len(sequence.ids) == delivered)
        second.refusal = None
        await hanging.kill()
        assert await call == completion([5, 6, 7], TOKENS, VOCAB_SIZE)
        assert world.gateway.registry.resolve("").metrics.failovers["device"] == 1


async def test_a_device_that_hangs_is_left_and_its_requests_go_on(processes: Any) -> None:
    hanging, sound = processes(after(9, "hang"), "")
    async with gateway([hanging, sound], stall_timeout_s=0.3) as world:
        first, second = world.gateway.devices
        second.refusal = "not yet"
        call = asyncio.create_task(tokens(world, [5, 6, 7]))
        await eventually(lambda: first.requests)
        second.refusal = None
        assert await call == completion([5, 6, 7], TOKENS, VOCAB_SIZE)
        assert hanging.lives
        assert first.state.startswith("stalled")
        # Nobody is sent there any more.
        assert await tokens(world, [1, 2]) == completion([1, 2], TOKENS, VOCAB_SIZE)
        assert first.requests == 0


async def test_a_request_that_spoils_its_logits_ends_alone(processes: Any) -> None:
    """The poison is NaN on every chip. Who runs beside it, or after it in its slot, is right."""
    spoiling = f'token = {POISON}\nkind = "nan"'
    devices = processes(spoiling, spoiling)
    async with gateway(devices) as world:
        beside = harmless(6, 400)
        others = [asyncio.create_task(tokens(world, prompt, 400)) for prompt in beside]
        await eventually(lambda: sum(d.requests for d in world.gateway.devices) == 6)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await tokens(world, [8, POISON, 9])
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "2 devices were lost or failed" in str(caught.value.details())
        for prompt, other in zip(beside, others, strict=True):
            assert await other == completion(prompt, 400, VOCAB_SIZE)
        for prompt in harmless(40, TOKENS):
            assert await tokens(world, prompt) == completion(prompt, TOKENS, VOCAB_SIZE)
        assert all(each.lives for each in devices)
        assert [each.served.said() for each in devices] == [[], []]


async def test_a_request_that_kills_devices_stops_at_the_second(processes: Any) -> None:
    deadly = f'token = {POISON}\nkind = "chip_fault"'
    devices = processes(deadly, deadly, deadly)
    async with gateway(devices) as world:
        beside = harmless(6, 400)
        others = [asyncio.create_task(tokens(world, prompt, 400)) for prompt in beside]
        await eventually(lambda: sum(d.requests for d in world.gateway.devices) == 6)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await tokens(world, [8, POISON, 9])
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        for prompt, other in zip(beside, others, strict=True):
            assert await other == completion(prompt, 400, VOCAB_SIZE)
        await eventually(lambda: sum(each.lives for each in devices) == 1)


async def test_a_device_is_used_again_when_it_speaks() -> None:
    """A step that hangs for a while, on one of two services on this loop."""
    gate = threading.Event()
    gate.set()
    devices: Any = [
        ServedEngine("slow", vocab_size=VOCAB, before_launch=gate.wait),
        ServedEngine("sound", vocab_size=VOCAB),
    ]
    async with running(*devices, stall_timeout_s=0.2) as world:
        slow, sound = world.gateway.devices
        sound.refusal = "not yet"
        gate.clear()
        call = asyncio.create_task(tokens(world, [5, 6]))
        await eventually(lambda: slow.requests)
        sound.refusal = None
        assert await call == expected_tokens([5, 6], TOKENS, vocab_size=VOCAB)
        assert not slow.ready
        gate.set()
        await eventually(lambda: slow.ready)
        sound.refusal = "no more"
        assert await tokens(world, [7]) == expected_tokens([7], TOKENS, vocab_size=VOCAB)
