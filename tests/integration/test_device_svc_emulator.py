"""The device service on the chip emulator: runs are compared with each other, token by token."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.support.device_client import SessionClient, device_session
from tests.support.service_process import ROOT, ServiceProcess, service_process
from tpuserve import model_dir
from tpuserve.v1 import device_pb2, generation_pb2

DEMO = ROOT / "models" / "demo"
FIXTURES = ROOT / "tests" / "fixtures" / "models"
SAMPLED = generation_pb2.SamplingParams(
    temperature=1.2, top_p=0.95, repetition_penalty=1.1, presence_penalty=0.5, seed=2026
)


@dataclass(frozen=True)
class Device:
    process: ServiceProcess
    address: str
    sha256: str


def arguments(model: Path, *more: str) -> tuple[str, ...]:
    return (
        *("--model", str(model), "--runtime", "emulator"),
        *("--listen", "127.0.0.1:0", "--slots", "2"),
        *more,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    log = tmp_path_factory.mktemp("device") / "log"
    with service_process("device_svc", *arguments(DEMO), stderr=log) as process:
        ready = process.wait_for("ready")
        yield Device(process, ready["address"], model_dir.bmodel_sha256(model_dir.load(DEMO)))


def prompt(length: int, *, start: int = 3) -> list[int]:
    """Ids that never repeat a short cycle, so that every position counts."""
    return [start + (index * index * 7 + index) % 1000 for index in range(length)]


async def solo(
    device: Device, prompt_ids: list[int], max_tokens: int, **fields: object
) -> list[int]:
    async with device_session(device.address, device.sha256) as session:
        await session.submit("solo", prompt_ids, max_tokens, **fields)
        ids, finish = await session.result("solo")
        assert finish == "LENGTH"
        return ids


async def test_info(demo: Device) -> None:
    async with device_session(demo.address, demo.sha256) as session:
        info = await session.stub.GetInfo(device_pb2.GetDeviceInfoRequest())
    assert info.model.bmodel_sha256 == demo.sha256
    assert (info.context_length, info.max_prompt_length) == (512, 511)
    assert (info.prefill_chunk_tokens, info.vocab_size, info.slots) == (64, 1024, 2)
    assert {"history", "logits"} <= set(info.features)
    assert info.runtime.kind == "emulator"


async def test_interleaved_requests_equal_their_solo_runs(demo: Device) -> None:
    """Two slots and three requests: one waits, and a prompt of three chunks joins a decoder."""
    requests = {
        "short": (prompt(5), generation_pb2.SamplingParams(temperature=0)),
        "long": (prompt(150, start=9), SAMPLED),
        "third": (prompt(20, start=11), SAMPLED),
    }
    expected = {
        name: await solo(demo, ids, 12, sampling=sampling)
        for name, (ids, sampling) in requests.items()
    }
    async with device_session(demo.address, demo.sha256) as session:
        for name, (ids, sampling) in requests.items():
            await session.submit(name, ids, 12, sampling=sampling)
        for name in requests:
            assert await session.result(name) == (expected[name], "LENGTH")
    assert len({tuple(ids) for ids in expected.values()}) == 3


async def test_cancel_frees_the_slot(demo: Device) -> None:
    async with device_session(demo.address, demo.sha256) as session:
        await session.submit("a", prompt(5), 400)
        while not session.ids("a"):
            await session.read()
        assert (await session.load()).running == 1
        await session.cancel("a")
        ids, finish = await session.result("a")
        assert finish == "CANCELLED"
        assert len(ids) < 100
        assert (await session.load()).free_slots == 2


async def test_a_client_that_goes_away_frees_its_slots(demo: Device) -> None:
    async with device_session(demo.address, demo.sha256) as watcher:
        async with device_session(demo.address, demo.sha256) as session:
            for index in range(4):
                await session.submit(f"r{index}", prompt(5), 400)
            while not session.ids("r0"):
                await session.read()
        load = await watcher.until_idle()
        assert (load.free_slots, load.kv_tokens) == (2, 0)


async def test_a_stop_id_ends_the_completion_and_is_its_last(demo: Device) -> None:
    ids = await solo(demo, prompt(5), 12, sampling=SAMPLED)
    stop = ids[6]
    first = ids.index(stop)
    async with device_session(demo.address, demo.sha256) as session:
        await session.submit("a", prompt(5), 12, sampling=SAMPLED, stop_ids=[stop])
        assert await session.result("a") == (ids[: first + 1], "STOP")


async def test_stop_ids_are_not_drawn_before_min_tokens(demo: Device) -> None:
    greedy = generation_pb2.SamplingParams(temperature=0)
    ids = await solo(demo, prompt(5), 3, sampling=greedy)
    async with device_session(demo.address, demo.sha256) as session:
        await session.submit("a", prompt(5), 6, sampling=greedy, stop_ids=[ids[0]], min_tokens=3)
        held, _ = await session.result("a")
    assert ids[0] not in held[:3]
    assert len(held) >= 3


async def test_logprobs_belong_to_the_drawn_tokens(demo: Device) -> None:
    async with device_session(demo.address, demo.sha256) as session:
        await session.submit("a", prompt(5), 4, logprobs=3)
        ids, _ = await session.result("a")
        logprobs = [item for e in session.emissions("a") for item in e.logprobs]
    assert [item.token_id for item in logprobs] == ids
    for item in logprobs:
        assert item.logprob <= 0
        assert len(item.top) == 3
        values = [candidate.logprob for candidate in item.top]
        assert values == sorted(values, reverse=True)


async def test_the_context_end_is_a_length_finish(demo: Device) -> None:
    async with device_session(demo.address, demo.sha256) as session:
        await session.submit("a", prompt(508), 100)
        ids, finish = await session.result("a")
    assert (len(ids), finish) == (4, "LENGTH")


async def test_a_killed_device_is_unavailable_and_resumes_elsewhere(tmp_path: Path) -> None:
    """What the gateway does when a process dies: the same tokens go on in the next one."""
    sha256 = model_dir.bmodel_sha256(model_dir.load(DEMO))
    ids: list[int] = []
    with service_process("device_svc", *arguments(DEMO), stderr=tmp_path / "a") as process:
        device = Device(process, process.wait_for("ready")["address"], sha256)
        unbroken = await solo(device, prompt(5), 40, sampling=SAMPLED)
        async with device_session(device.address, sha256) as session:
            await session.submit("a", prompt(5), 40, sampling=SAMPLED)
            while len(session.ids("a")) < 3:
                await session.read()
            process.process.kill()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await session.read_all()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            ids = session.ids("a")
    with service_process("device_svc", *arguments(DEMO), stderr=tmp_path / "b") as process:
        device = Device(process, process.wait_for("ready")["address"], sha256)
        rest = await solo(device, prompt(5), 40, sampling=SAMPLED, resume_ids=ids)
    assert ids + rest == unbroken


@pytest.mark.parametrize("name", ["static", "dynamic", "w4f16"])
async def test_other_builds_serve_two_requests_as_one(name: str, tmp_path: Path) -> None:
    model = FIXTURES / name
    with service_process("device_svc", *arguments(model), stderr=tmp_path / "log") as process:
        ready = process.wait_for("ready")
        device = Device(process, ready["address"], model_dir.bmodel_sha256(model_dir.load(model)))
        expected = [await solo(device, prompt(20, start=s), 4) for s in (3, 9)]
        async with device_session(device.address, device.sha256) as session:
            await session.submit("a", prompt(20, start=3), 4)
            await session.submit("b", prompt(20, start=9), 4)
            assert [(await session.result(key))[0] for key in ("a", "b")] == expected


async def test_an_argmax_head_serves_greedy_requests_only(tmp_path: Path) -> None:
    model = FIXTURES / "argmax"
    with service_process("device_svc", *arguments(model), stderr=tmp_path / "log") as process:
        ready = process.wait_for("ready")
        sha256 = model_dir.bmodel_sha256(model_dir.load(model))
        async with device_session(ready["address"], sha256) as session:
            info = await session.stub.GetInfo(device_pb2.GetDeviceInfoRequest())
            # From config.json: the head does not tell.
            assert info.vocab_size == 1024
            assert "argmax-head" in info.features
            await session.submit("sampled", prompt(5), 4, sampling=SAMPLED)
            assert (await session.rejection("sampled"))[0] == "UNSUPPORTED"
            await session.submit("outside", [1024], 4)
            assert (await session.rejection("outside"))[0] == "INVALID"
            await session.submit("greedy", prompt(5), 4)
            ids, finish = await session.result("greedy")
            assert (len(ids), finish) == (4, "LENGTH")
            rest = await resume(session, prompt(5), ids)
            assert rest == ids[2:]


async def resume(session: SessionClient, prompt_ids: list[int], ids: list[int]) -> list[int]:
    await session.submit("resumed", prompt_ids, len(ids), resume_ids=ids[:2])
    return (await session.result("resumed"))[0]


def broken_model(tmp_path: Path, *, cut: bool, sha256: str | None = None) -> Path:
    """A copy of the demo's directory, its bmodel perhaps cut in half."""
    model = model_dir.load(DEMO)
    path = tmp_path / "model"
    path.mkdir()
    (path / "config").symlink_to(model.config)
    content = model.bmodel.read_bytes()
    (path / "m.bmodel").write_bytes(content[: len(content) // 2] if cut else content)
    if sha256 is not None:
        (path / "tpuserve.toml").write_text(f'[model]\nsha256 = "{sha256}"\n', encoding="utf-8")
    return path


def start_error(*given: str, tmp_path: Path, env: dict[str, str] | None = None) -> str:
    """The one line that a device says when it cannot start."""
    log = tmp_path / "log"
    with service_process("device_svc", *given, stderr=log, env=env) as process:
        assert process.exit_status() == 1, process.log
        errors = [line for line in process.log if line.startswith("error: ")]
        assert len(errors) == 1, process.log
        assert not any("Traceback" in line for line in process.log)
        return errors[0]


def test_a_truncated_bmodel_is_named(tmp_path: Path) -> None:
    model = broken_model(tmp_path, cut=True)
    assert "m.bmodel" in start_error(*arguments(model), tmp_path=tmp_path)


def test_a_corrupt_bmodel_is_told_by_its_hash(tmp_path: Path) -> None:
    model = broken_model(tmp_path, cut=False, sha256="00" * 32)
    text = start_error(*arguments(model), tmp_path=tmp_path)
    assert "00" * 32 in text
    assert model_dir.bmodel_sha256(model_dir.load(DEMO)) in text


def test_a_chip_that_does_not_exist_is_named(tmp_path: Path) -> None:
    text = start_error(*arguments(DEMO, "--devices", "9"), tmp_path=tmp_path)
    assert "no chip 9" in text
    assert "has 8" in text


def test_more_slots_than_memory_names_the_numbers(tmp_path: Path) -> None:
    text = start_error(*arguments(DEMO, "--slots", "100000"), tmp_path=tmp_path)
    assert "100000 slots" in text
    assert "free" in text


def test_no_emulator_says_what_to_do(tmp_path: Path) -> None:
    env = {"TPUSERVE_EMULATOR_DIR": str(tmp_path / "nothing")}
    text = start_error(*arguments(DEMO), tmp_path=tmp_path, env=env)
    assert "tpuserve emulator install" in text


def test_no_model_directory_is_named(tmp_path: Path) -> None:
    text = start_error(*arguments(tmp_path / "absent"), tmp_path=tmp_path)
    assert "absent" in text


async def test_a_term_signal_ends_an_idle_device(tmp_path: Path) -> None:
    with service_process("device_svc", *arguments(DEMO), stderr=tmp_path / "log") as process:
        ready = process.wait_for("ready")
        sha256 = model_dir.bmodel_sha256(model_dir.load(DEMO))
        async with device_session(ready["address"], sha256) as session:
            # An idle session does not hold the process up.
            await session.load()
            process.process.terminate()
            assert await asyncio.to_thread(process.exit_status, timeout_s=10) == 0
