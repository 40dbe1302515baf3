"""A model on several emulated chips, served: what one chip answers, and recovery from a kill."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.device_client import SessionClient, device_session
from tests.support.service_process import service_process
from tests.support.supervised import CHIPS2, MODEL, up
from tpuserve import model_dir
from tpuserve.client import Client, Delta, Message, Options
from tpuserve.v1 import device_pb2

PROMPTS = [[(7 * i * i + start) % 1000 for i in range(5 + 30 * start)] for start in range(4)]


def arguments(model: Path, *more: str) -> list[str]:
    given = ["--model", str(model), "--runtime", "emulator", "--listen", "127.0.0.1:0"]
    return [*given, "--metrics-listen", "127.0.0.1:0", *more]


async def completions(session: SessionClient) -> list[list[int]]:
    """Of all prompts at once; the second is cancelled, and its slot used again, on the way."""
    await session.submit("gone", PROMPTS[1], 100)
    for i, ids in enumerate(PROMPTS):
        await session.submit(f"request {i}", ids, 12)
    await session.cancel("gone")
    results = [await session.result(f"request {i}") for i in range(len(PROMPTS))]
    return [ids for ids, _ in results]


async def served(log: Path, model: Path, *more: str) -> tuple[list[list[int]], list[int], str]:
    """Completions, the chips of the device, and its metrics."""
    with service_process("device_svc", *arguments(model, *more), stderr=log) as process:
        ready = process.wait_for("ready")
        sha256 = model_dir.bmodel_sha256(model_dir.load(model))
        async with device_session(ready["address"], sha256) as session:
            info = await session.stub.GetInfo(device_pb2.GetDeviceInfoRequest())
            assert info.model.bmodel_sha256 == sha256
            found = await completions(session)
        url = f"http://{ready['metrics_address']}/metrics"
        metrics = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
        return found, list(info.chips), metrics


async def test_two_chips_answer_as_one(tmp_path: Path) -> None:
    one, chips, _ = await served(tmp_path / "one", MODEL)
    assert chips == [0]
    two, chips, metrics = await served(tmp_path / "two", CHIPS2, "--devices", "5,2")
    assert two == one
    assert chips == [5, 2]
    for chip in chips:
        (line,) = (
            line
            for line in metrics.splitlines()
            if line.startswith(f'tpuserve_chip_busy_seconds_total{{chip="{chip}"}}')
        )
        assert float(line.split()[1]) > 0
        assert f'tpuserve_chip_up{{chip="{chip}"}} 1.0' in metrics


@pytest.mark.parametrize(
    ("model", "devices", "says"),
    [
        (CHIPS2, "0", r"1 chips (0) do not make groups of 2"),
        (CHIPS2, "0,1,2,3", "names 4 chips, the model was compiled for 2"),
        (MODEL, "0,1", "names 2 chips, the model was compiled for 1"),
        (CHIPS2, "0,8", "there is no chip 8; this host has 8"),
    ],
)
def test_the_number_of_chips_must_fit(model: Path, devices: str, says: str, tmp_path: Path) -> None:
    given = arguments(model, "--devices", devices)
    with service_process("device_svc", *given, stderr=tmp_path / "log") as process:
        assert process.exit_status() == 1
        assert any(says in line for line in process.log), process.log


def test_two_groups_behind_a_gateway_survive_a_kill(tmp_path: Path) -> None:
    options = Options(max_tokens=24, temperature=0)
    question = [Message("user", "What is a BM1684X?")]
    with up(tmp_path, "--model", str(CHIPS2), "--devices", "0,1,3,2") as server:
        address = server.wait_for(r"gRPC   (\S+)").group(1)
        with Client(address) as client:
            # The gateway is ready with the first of them.
            deadline_s = time.monotonic() + 20
            while client.models()[0].healthy_devices < 2:
                assert time.monotonic() < deadline_s, server.log
                time.sleep(0.05)
            before = client.chat_once(question, options)
            texts: list[str] = []
            for chunk in client.chat(question, options):
                if isinstance(chunk, Delta) and not texts:
                    devices = server.children("device_svc")
                    assert len(devices) == 2
                    for device in devices:
                        device.kill()
                if isinstance(chunk, Delta):
                    texts.append(chunk.text)
            assert "".join(texts) == before.text
