"""A request that is broken off after any of its tokens goes on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import pytest

from tests.support.device_client import SessionClient, device_session
from tests.support.service_process import ROOT, service_process
from tpuserve import model_dir
from tpuserve.v1 import generation_pb2

MODELS = {
    "one-row": (ROOT / "models" / "demo", 2),
    "batched": (ROOT / "tests" / "fixtures" / "models" / "batch4", 4),
}
PROMPT = [3 + (index * index * 7 + index) % 1000 for index in range(70)]
SEEDED = generation_pb2.SamplingParams(
    temperature=1.2,
    top_p=0.95,
    repetition_penalty=1.1,
    presence_penalty=0.5,
    frequency_penalty=0.2,
    penalty_window_tokens=60,
    seed=2026,
)
GREEDY = generation_pb2.SamplingParams(temperature=0, frequency_penalty=0.3)
TOKENS = {"seeded": 24, "greedy": 12}

# Ids, and of each its log probability and those of the best three: floats tell the last bits.
Drawn: TypeAlias = list[tuple[int, float, tuple[tuple[int, float], ...]]]


@dataclass(frozen=True)
class Device:
    address: str
    sha256: str


@pytest.fixture(scope="module", params=MODELS)
def device(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Device]:
    model, slots = MODELS[request.param]
    arguments = (
        *("--model", str(model), "--runtime", "emulator", "--listen", "127.0.0.1:0"),
        *("--slots", str(slots), "--deterministic"),
    )
    log = tmp_path_factory.mktemp("resume") / "log"
    with service_process("device_svc", *arguments, stderr=log) as process:
        address = process.wait_for("ready")["address"]
        yield Device(address, model_dir.bmodel_sha256(model_dir.load(model)))


def drawn(session: SessionClient, key: str) -> Drawn:
    items = [item for emission in session.emissions(key) for item in emission.logprobs]
    assert [item.token_id for item in items] == session.ids(key)
    return [
        (item.token_id, item.logprob, tuple((c.token_id, c.logprob) for c in item.top))
        for item in items
    ]


@pytest.mark.parametrize(
    ("name", "sampling"), [("seeded", SEEDED), ("greedy", GREEDY)], ids=["seeded", "greedy"]
)
async def test_going_on_behind_every_token(
    device: Device, name: str, sampling: generation_pb2.SamplingParams
) -> None:
    """All the continuations run beside each other, in whatever slots come free."""
    count = TOKENS[name]
    fields = {"sampling": sampling, "logprobs": 3}
    async with device_session(device.address, device.sha256) as session:
        await session.submit("unbroken", PROMPT, count, **fields)
        assert (await session.result("unbroken"))[1] == "LENGTH"
        unbroken = drawn(session, "unbroken")
        ids = session.ids("unbroken")
        for k in range(count):
            await session.submit(f"from {k}", PROMPT, count, resume_ids=ids[:k], **fields)
        for k in range(count):
            assert (await session.result(f"from {k}"))[1] == "LENGTH"
            assert drawn(session, f"from {k}") == unbroken[k:], k
    assert len(set(ids)) > count // 3


async def test_a_stop_id_ends_it_wherever_it_was_broken_off(device: Device) -> None:
    async with device_session(device.address, device.sha256) as session:
        await session.submit("free", PROMPT, 8, sampling=SEEDED)
        ids, _ = await session.result("free")
        stop = ids[6]
        end = ids.index(stop) + 1
        for k in range(end):
            fields = {"sampling": SEEDED, "stop_ids": [stop], "resume_ids": ids[:k]}
            await session.submit(f"from {k}", PROMPT, 24, **fields)
        for k in range(end):
            assert await session.result(f"from {k}") == (ids[k:end], "STOP")


async def test_the_fast_form_goes_on_with_nearly_the_same_logits(device: Device) -> None:
    """Resume ids that prefill puts into the KV have other last bits than those of decode steps."""
    async with device_session(device.address, device.sha256) as session:
        await session.submit("unbroken", PROMPT, 12, sampling=GREEDY, logprobs=0)
        ids, _ = await session.result("unbroken")
        expected = drawn(session, "unbroken")
        for k in range(1, 12):
            fields = {"resume_ids": ids[:k], "resume_by_prefill": True}
            await session.submit(f"from {k}", PROMPT, k + 1, sampling=GREEDY, logprobs=0, **fields)
        for k in range(1, 12):
            await session.result(f"from {k}")
            [(token, logprob, _)] = drawn(session, f"from {k}")
            assert token == ids[k]
            assert logprob == pytest.approx(expected[k][1], abs=0.02)
