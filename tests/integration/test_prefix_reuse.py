"""Prefix reuse on the chip emulator: resident rows are followed by what follows cold ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.device_client import SessionClient, device_session
from tests.support.service_process import ROOT, service_process
from tpuserve import model_dir
from tpuserve.v1 import generation_pb2

MODELS = {
    "one-row": ROOT / "models" / "demo",
    "batched": ROOT / "tests" / "fixtures" / "models" / "batch4",
}
SHARED = [3 + (index * index * 7 + index) % 1000 for index in range(128)]
SAMPLED = generation_pb2.SamplingParams(
    temperature=1.2, top_p=0.95, repetition_penalty=1.1, presence_penalty=0.5, seed=2026
)
BULK, SYSTEM = generation_pb2.PRIORITY_BULK, generation_pb2.PRIORITY_SYSTEM


@dataclass(frozen=True)
class Device:
    """With two slots, in a process of its own."""

    address: str
    sha256: str


@dataclass(frozen=True)
class Answer:
    cached_tokens: int
    ids: list[int]
    # Of each token its own and the best five's, exact floats.
    logprobs: list[tuple[int, float, tuple[tuple[int, float], ...]]]


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Path:
    return MODELS[request.param]


@pytest.fixture(scope="module")
def warm(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    with started(model, "exact", tmp_path_factory.mktemp("warm")) as device:
        yield device


@pytest.fixture(scope="module")
def cold(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    with started(model, "off", tmp_path_factory.mktemp("cold")) as device:
        yield device


@contextmanager
def started(model: Path, mode: str, directory: Path) -> Iterator[Device]:
    with service_process(
        "device_svc",
        *("--model", str(model), "--runtime", "emulator", "--listen", "127.0.0.1:0"),
        *("--slots", "2", "--prefix-cache", mode, "--deterministic"),
        stderr=directory / "log",
    ) as process:
        address = process.wait_for("ready")["address"]
        yield Device(address, model_dir.bmodel_sha256(model_dir.load(model)))


def answer(session: SessionClient, name: str) -> Answer:
    logprobs = [item for emission in session.emissions(name) for item in emission.logprobs]
    return Answer(
        session.accepted[name].cached_tokens,
        session.ids(name),
        [
            (item.token_id, item.logprob, tuple((c.token_id, c.logprob) for c in item.top))
            for item in logprobs
        ],
    )


async def ask(
    device: Device, prompt_ids: list[int], max_tokens: int = 6, **fields: object
) -> Answer:
    async with device_session(device.address, device.sha256) as session:
        await session.submit("a", prompt_ids, max_tokens, sampling=SAMPLED, logprobs=5, **fields)
        assert (await session.result("a"))[1] == "LENGTH"
        return answer(session, "a")


async def test_a_shared_prefix_of_two_chunks_changes_no_bit(warm: Device, cold: Device) -> None:
    """First in the slot itself, then, while that one runs, copied to the other slot."""
    await ask(warm, [*SHARED, 7, 8, 9])
    second, third = [*SHARED, *range(500, 513)], [*SHARED, *range(600, 620)]
    async with device_session(warm.address, warm.sha256) as session:
        for name, prompt_ids in (("second", second), ("third", third)):
            await session.submit(name, prompt_ids, 6, sampling=SAMPLED, logprobs=5)
        for name, prompt_ids in (("second", second), ("third", third)):
            await session.result(name)
            found, alone = answer(session, name), await ask(cold, prompt_ids)
            assert (found.cached_tokens, alone.cached_tokens) == (128, 0)
            assert (found.ids, found.logprobs) == (alone.ids, alone.logprobs)
        assert session.accepted["second"].slot != session.accepted["third"].slot


async def test_the_next_turn_of_a_chat_is_exact(warm: Device, cold: Device) -> None:
    """The answer's rows were made by decode steps: only the prompt's chunks are taken."""
    prompt_ids = [*range(300, 300 + 70)]
    first = await ask(warm, prompt_ids)
    turn = [*prompt_ids, *first.ids, *range(40, 120)]
    found, alone = await ask(warm, turn), await ask(cold, turn)
    assert found.cached_tokens == 64
    assert (found.ids, found.logprobs) == (alone.ids, alone.logprobs)


async def test_a_resumed_request_reuses_and_stays_exact(warm: Device, cold: Device) -> None:
    prompt_ids = [*SHARED, 11, 12]
    unbroken = await ask(cold, prompt_ids)
    resumed = await ask(warm, prompt_ids, resume_ids=unbroken.ids[:3])
    assert resumed.cached_tokens == 128
    assert resumed.ids == unbroken.ids[3:]
    assert resumed.logprobs == unbroken.logprobs[3:]


async def test_preempted_requests_go_on_bit_for_bit(warm: Device, cold: Device) -> None:
    """Two bulk requests fill the device; two of the highest class take their slots."""
    prompts = {"a": [*range(70)], "b": [*range(100, 150)], "c": [*range(200, 280)], "d": [5, 6]}
    async with device_session(warm.address, warm.sha256) as session:
        for name in ("a", "b"):
            await session.submit(
                name, prompts[name], 12, sampling=SAMPLED, logprobs=5, priority=BULK
            )
        while not (session.ids("a") and session.ids("b")):
            await session.read()
        for name in ("c", "d"):
            await session.submit(
                name, prompts[name], 8, sampling=SAMPLED, logprobs=5, priority=SYSTEM
            )
        await session.result("c")
        await session.result("d")
        assert (session.finish("a"), session.finish("b")) == ("", "")
        for name in prompts:
            await session.result(name)
        found = {name: answer(session, name) for name in prompts}
    for name, tokens in (("a", 12), ("b", 12), ("c", 8), ("d", 8)):
        alone = await ask(cold, prompts[name], tokens)
        assert (found[name].ids, found[name].logprobs) == (alone.ids, alone.logprobs)
