"""The device service with a bmodel for four slots: one launch serves all, and nobody notices."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.device_client import SessionClient, device_session
from tests.support.service_process import ROOT, service_process
from tpuserve import model_dir
from tpuserve.v1 import device_pb2, generation_pb2

BATCH4 = ROOT / "tests" / "fixtures" / "models" / "batch4"
SAMPLED = generation_pb2.SamplingParams(temperature=1.1, top_p=0.95, seed=2026)
MAX_TOKENS = 40


@dataclass(frozen=True)
class Device:
    address: str
    metrics_address: str
    sha256: str


def arguments(*more: str) -> tuple[str, ...]:
    return (
        *("--model", str(BATCH4), "--runtime", "emulator", "--listen", "127.0.0.1:0"),
        # Each run starts cold, so that launches can be compared.
        *("--deterministic", "--prefix-cache", "off", *more),
    )


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    log = tmp_path_factory.mktemp("batch") / "log"
    given = arguments("--metrics-listen", "127.0.0.1:0")
    with service_process("device_svc", *given, stderr=log) as process:
        ready = process.wait_for("ready")
        sha256 = model_dir.bmodel_sha256(model_dir.load(BATCH4))
        yield Device(ready["address"], ready["metrics_address"], sha256)


def prompt(number: int) -> list[int]:
    """One prefill chunk each, of different lengths."""
    return [
        (number * 131 + index * index * 7 + index) % 1000 + 3 for index in range(5 + 15 * number)
    ]


async def metric(device: Device, name: str) -> int:
    def scrape() -> str:
        with urllib.request.urlopen(
            f"http://{device.metrics_address}/metrics", timeout=10
        ) as reply:
            text: str = reply.read().decode()
        return text

    lines = (await asyncio.to_thread(scrape)).splitlines()
    [value] = [line.split()[1] for line in lines if line.startswith(f"{name} ")]
    return int(float(value))


def drawn(session: SessionClient, key: str) -> list[tuple[int, float]]:
    """Tokens and their log probabilities, which tell the logits' last bits."""
    logprobs = [item for emission in session.emissions(key) for item in emission.logprobs]
    assert [item.token_id for item in logprobs] == session.ids(key)
    return [(item.token_id, item.logprob) for item in logprobs]


async def solo(device: Device, prompt_ids: list[int]) -> list[tuple[int, float]]:
    async with device_session(device.address, device.sha256) as session:
        await session.submit("solo", prompt_ids, MAX_TOKENS, sampling=SAMPLED, logprobs=0)
        assert (await session.result("solo"))[1] == "LENGTH"
        return drawn(session, "solo")


async def test_four_requests_take_the_launches_of_one(device: Device) -> None:
    prompts = {f"r{number}": prompt(number) for number in range(4)}
    expected, launches = {}, 0
    for key, ids in prompts.items():
        before = await metric(device, "tpuserve_device_launches_total")
        expected[key] = await solo(device, ids)
        launches = await metric(device, "tpuserve_device_launches_total") - before
    # Embedding, three layers and head; per prefill chunk and per decode step.
    assert launches == 5 * MAX_TOKENS
    before = await metric(device, "tpuserve_device_launches_total")
    async with device_session(device.address, device.sha256) as session:
        await session.submit_together(prompts, MAX_TOKENS, sampling=SAMPLED, logprobs=0)
        for key in prompts:
            await session.result(key)
            assert drawn(session, key) == expected[key]
    together = await metric(device, "tpuserve_device_launches_total") - before
    print(f"launches of four requests: {together}, of one: {launches}")
    assert together <= 1.35 * launches


async def test_joining_and_leaving_changes_nobodys_bits(device: Device) -> None:
    expected = await solo(device, prompt(1))
    async with device_session(device.address, device.sha256) as session:
        await session.submit("watched", prompt(1), MAX_TOKENS, sampling=SAMPLED, logprobs=0)
        for number in range(6):
            while len(session.ids("watched")) < 5 * number:
                await session.read()
            await session.submit(f"n{number}", prompt(number % 4), 3 + 2 * number)
        await session.result("watched")
        assert drawn(session, "watched") == expected


async def test_the_slots_are_the_batch(device: Device) -> None:
    async with device_session(device.address, device.sha256) as session:
        info = await session.stub.GetInfo(device_pb2.GetDeviceInfoRequest())
    assert info.slots == 4
    assert "batched-decode" in info.features


async def test_a_preempted_request_goes_on_with_the_same_bits(
    device: Device, tmp_path: Path
) -> None:
    """One slot: who has the higher priority takes it, the KV rows wait in host memory."""
    expected = [await solo(device, prompt(number)) for number in (2, 3)]
    with service_process(
        "device_svc", *arguments("--slots", "1"), stderr=tmp_path / "log"
    ) as process:
        address = process.wait_for("ready")["address"]
        async with device_session(address, device.sha256) as session:
            fields = {"sampling": SAMPLED, "logprobs": 0}
            bulk, system = generation_pb2.PRIORITY_BULK, generation_pb2.PRIORITY_SYSTEM
            await session.submit("low", prompt(2), MAX_TOKENS, priority=bulk, **fields)
            while len(session.ids("low")) < 3:
                await session.read()
            await session.submit("high", prompt(3), MAX_TOKENS, priority=system, **fields)
            await session.result("high")
            assert not session.finish("low")
            await session.result("low")
            assert [drawn(session, key) for key in ("low", "high")] == expected


def test_more_slots_than_the_batch_names_both(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with service_process("device_svc", *arguments("--slots", "5"), stderr=log) as process:
        assert process.exit_status() == 1
        [error] = [line for line in process.log if line.startswith("error: ")]
    assert "slots = 5" in error
    assert "batch of 4" in error
