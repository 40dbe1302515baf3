"""The device service as a process over the arithmetic engine: signals, failures, ports."""

from __future__ import annotations

import asyncio
import signal
import socket
import urllib.request
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.support.device_client import device_session
from tests.support.fake_core import expected_tokens
from tests.support.service_process import service_process
from tpuserve import model_dir
from tpuserve.v1 import device_pb2

FAKE = "tests.support.fake_device"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    (path / "config").mkdir(parents=True)
    (path / "model.bmodel").write_bytes(b"not a real one")
    return path


def fake_arguments(model: Path, *more: str) -> tuple[str, ...]:
    return ("--model", str(model), "--listen", "127.0.0.1:0", *more)


async def test_a_term_signal_drains(model: Path, tmp_path: Path) -> None:
    arguments = fake_arguments(model, "--slots", "1", "--step-us", "5000")
    sha256 = model_dir.bmodel_sha256(model_dir.load(model))
    with service_process(FAKE, *arguments, stderr=tmp_path / "log") as process:
        address = process.wait_for("ready")["address"]
        async with device_session(address, sha256) as session:
            await session.submit("running", [1, 2, 3], 100)
            await session.submit("waiting", [4], 3)
            while not session.ids("running"):
                await session.read()
            process.process.send_signal(signal.SIGTERM)
            # Rejections begin when the signal has arrived; until then requests just wait.
            for attempt in range(1000):
                await session.submit(f"late{attempt}", [1], 1)
                await session.read()
                if session.rejected:
                    break
            (late, rejected), *_ = session.rejected.items()
            assert rejected.code == device_pb2.REJECT_CODE_DRAINING, late
            expected = expected_tokens([1, 2, 3], 100)
            assert await session.result("running") == (expected, "LENGTH")
            assert await session.result("waiting") == (expected_tokens([4], 3), "LENGTH")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await session.read_all()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await asyncio.to_thread(process.exit_status) == 0


async def test_a_failed_launch_ends_the_process_after_telling(model: Path, tmp_path: Path) -> None:
    arguments = fake_arguments(model, "--slots", "1", "--fail-at", "5")
    sha256 = model_dir.bmodel_sha256(model_dir.load(model))
    with service_process(FAKE, *arguments, stderr=tmp_path / "log") as process:
        address = process.wait_for("ready")["address"]
        async with device_session(address, sha256) as session:
            await session.submit_together({"running": [1, 2, 3], "waiting": [1, 2, 3]}, 100)
            assert await session.result("running") == ([9, 19], "ERROR")
            assert await session.result("waiting") == ([], "ERROR")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await session.read_all()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await asyncio.to_thread(process.exit_status) == 3
        assert process.record("the engine failed") is not None


async def test_a_killed_process_is_unavailable_to_its_clients(model: Path, tmp_path: Path) -> None:
    arguments = fake_arguments(model, "--step-us", "2000")
    sha256 = model_dir.bmodel_sha256(model_dir.load(model))
    with service_process(FAKE, *arguments, stderr=tmp_path / "log") as process:
        address = process.wait_for("ready")["address"]
        async with device_session(address, sha256) as session:
            await session.submit("a", [1, 2, 3], 400)
            while not session.ids("a"):
                await session.read()
            process.process.kill()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await session.read_all()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_metrics_of_a_process(model: Path, tmp_path: Path) -> None:
    arguments = fake_arguments(model, "--slots", "2", "--metrics-listen", "127.0.0.1:0")
    sha256 = model_dir.bmodel_sha256(model_dir.load(model))
    with service_process(FAKE, *arguments, stderr=tmp_path / "log") as process:
        ready = process.wait_for("ready")
        async with device_session(ready["address"], sha256) as session:
            await session.submit("a", [1, 2, 3])
            await session.result("a")
        text = await asyncio.to_thread(scrape, ready["metrics_address"])
    for line in (
        'tpuserve_device_tokens_total{kind="prefill"} 3.0',
        'tpuserve_device_tokens_total{kind="decode"} 3.0',
        'tpuserve_device_requests_total{finish="length"} 1.0',
        "tpuserve_device_steps_total 4.0",
        "tpuserve_device_slots 2.0",
        "tpuserve_device_running 0.0",
        'tpuserve_chip_temperature_celsius{chip="0"} 40.0',
    ):
        assert line in text.splitlines(), text
    assert "tpuserve_chip_power_watts{" not in text


def scrape(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
        text: str = reply.read().decode()
    return text


@pytest.mark.parametrize("option", ["--listen", "--metrics-listen"])
def test_a_port_in_use_is_named(option: str, model: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = [*fake_arguments(model), option, address]
        with service_process(FAKE, *arguments, stderr=tmp_path / "log") as process:
            assert process.exit_status() == 1
            assert any(line.startswith("error: ") and address in line for line in process.log)


def test_the_ready_line_names_what_is_served(model: Path, tmp_path: Path) -> None:
    with service_process(
        FAKE, *fake_arguments(model, "--name", "group-7"), stderr=tmp_path / "log"
    ) as process:
        ready = process.wait_for("ready")
        assert (ready["model"], ready["device"], ready["service"]) == ("model", "group-7", "device")
