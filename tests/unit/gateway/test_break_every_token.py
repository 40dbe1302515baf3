"""A device is lost after every possible number of tokens: the client cannot tell."""

from __future__ import annotations

from dataclasses import dataclass

import grpc.aio
import pytest

from tests.unit.gateway.conftest import Start, World
from tests.unit.gateway.fakes import FakeDevice, eventually
from tpuserve.v1 import generation_pb2

TOKENS = 24


@dataclass(frozen=True)
class Told:
    """All that a client learns but for times: the pieces of text may be cut elsewhere."""

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[tuple[int, float, bytes, tuple[tuple[int, float, bytes], ...]], ...]
    reason: int
    stop: str
    usage: tuple[int, int]


def request(stop: list[str]) -> generation_pb2.GenerateRequest:
    """Digits, or with `stop` digits until it is met."""
    return generation_pb2.GenerateRequest(
        text="long",
        stopping=generation_pb2.StoppingParams(max_tokens=TOKENS, stop=stop),
        logprobs=generation_pb2.LogprobParams(top=2),
    )


async def ask(world: World, stop: list[str], *, break_after: int | None) -> Told:
    """break_after: kill the device that serves it once it has made so many tokens."""
    for device in world.devices:
        device.hold()
        device.steps = 0
    call = world.stub.Generate(request(stop))
    first = await call.read()
    assert first.HasField("started")
    if break_after is not None:
        victim = next(device for device in world.devices if device.running)
        victim.allow(break_after)
        model = world.gateway.registry.resolve("")
        [sequence] = next(d for d in world.gateway.devices if list(d.sequences)).sequences
        await eventually(lambda: len(sequence.ids) == break_after)
        lost = model.metrics.failovers["device"]
        await victim.kill()
        await eventually(lambda: model.metrics.failovers["device"] == lost + 1)
        await victim.start()
    for device in world.devices:
        device.allow(None)
    chunks = []
    while (chunk := await call.read()) is not grpc.aio.EOF:
        chunks.append(chunk)
    return told(chunks)


def told(chunks: list[generation_pb2.GenerateChunk]) -> Told:
    deltas = [chunk.delta for chunk in chunks if chunk.HasField("delta")]
    [finished] = [chunk.finished for chunk in chunks if chunk.HasField("finished")]
    return Told(
        "".join(delta.text for delta in deltas),
        tuple(i for delta in deltas for i in delta.token_ids),
        tuple(
            (
                entry.token_id,
                entry.logprob,
                entry.token,
                tuple((top.token_id, top.logprob, top.token) for top in entry.top),
            )
            for delta in deltas
            for entry in delta.logprobs
        ),
        finished.reason,
        finished.stop,
        (finished.usage.prompt_tokens, finished.usage.completion_tokens),
    )


@pytest.mark.parametrize(
    ("stop", "tokens", "text"),
    [
        ([], TOKENS, "012345678901234567890123"),
        # Met at the 13th token; what might become it is held back from the 8th on.
        (["789012", "89x"], 13, "0123456"),
    ],
    ids=["length", "stop-text"],
)
async def test_a_break_after_every_token(
    start: Start, stop: list[str], tokens: int, text: str
) -> None:
    async with start(*(FakeDevice(name=f"dev-{i}") for i in range(2))) as world:
        unbroken = await ask(world, stop, break_after=None)
        assert (unbroken.text, unbroken.usage) == (text, (4, tokens))
        assert len(unbroken.logprobs) == tokens
        for k in range(tokens):
            await eventually(lambda: all(d.ready for d in world.gateway.devices))
            assert await ask(world, stop, break_after=k) == unbroken, k
        metrics = world.gateway.registry.resolve("").metrics
        assert metrics.failovers["device"] == tokens
        assert sum(len(device.submits) for device in world.devices) == 2 * tokens + 1
