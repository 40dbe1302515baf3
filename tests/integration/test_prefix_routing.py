"""The gateway over two device services: conversations stay where their beginning is resident."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import grpc.aio

from tests.support.served_engine import ServedEngine
from tests.unit.gateway.conftest import running
from tests.unit.gateway.fakes import VOCAB, eventually
from tpuserve.v1 import generation_pb2

SLOTS = 8
# Four chunks of 64 tokens each; the tokenizer makes a token of each byte.
SYSTEM = {"pirate": "Yo ho ho! " * 26, "lawyer": "Whereas I " * 26}


def over_engine(name: str, **engine: Any) -> ServedEngine:
    return ServedEngine(name, slots=SLOTS, vocab_size=VOCAB, **engine)


def generate(text: str, max_tokens: int = 3) -> generation_pb2.GenerateRequest:
    stopping = generation_pb2.StoppingParams(max_tokens=max_tokens, ignore_eos=True)
    return generation_pb2.GenerateRequest(text=text, stopping=stopping)


async def started(world: Any, text: str, max_tokens: int = 3) -> tuple[str, int]:
    """The device that took it, and how much of the prompt was resident there."""
    call = world.stub.Generate(generate(text, max_tokens))
    first = (await call.read()).started
    while await call.read() is not grpc.aio.EOF:
        pass
    return first.device, first.cached_tokens


async def test_conversations_stay_with_their_system_prompt() -> None:
    devices: Any = [over_engine("one"), over_engine("two")]
    async with running(*devices) as world:
        homes: dict[str, set[str]] = {name: set() for name in SYSTEM}
        # Beside each other at first, so that the emptier device takes the second.
        await asyncio.gather(*(started(world, text) for text in SYSTEM.values()))
        for user in range(6):
            for name, text in SYSTEM.items():
                device, cached_tokens = await started(world, f"{text}{user} says hello")
                homes[name].add(device)
                assert cached_tokens == 256
        assert all(len(found) == 1 for found in homes.values()), homes


async def test_a_flood_spills_over_and_fills_both() -> None:
    devices: Any = [over_engine("one", launch_s=0.002), over_engine("two", launch_s=0.002)]
    async with running(*devices) as world:
        home, _ = await started(world, SYSTEM["pirate"])
        calls = [started(world, f"{SYSTEM['pirate']}{n}", 20) for n in range(2 * SLOTS)]
        found = await asyncio.gather(*calls)
        spilled = [cached for device, cached in found if device != home]
        # Half its slots more than the other, not all of them.
        assert SLOTS // 2 <= len(spilled) <= SLOTS
        # There the first computed the prefix, and those behind it found it.
        assert sorted(set(spilled)) == [0, 256]
        assert spilled.count(0) == 1


async def test_a_restarted_device_has_forgotten() -> None:
    devices: Any = [over_engine("one"), over_engine("two")]
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(running(*devices))
        home, _ = await started(world, SYSTEM["pirate"])
        assert await started(world, SYSTEM["pirate"] + "a") == (home, 256)
        served = next(device for device in devices if device.name == home)
        session = next(d for d in world.gateway.devices if d.address == served.address)
        await served.kill()
        await eventually(lambda: not session.ready)
        await served.start()
        await eventually(lambda: session.ready)
        assert (await started(world, SYSTEM["pirate"] + "b"))[1] == 0
