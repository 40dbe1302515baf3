"""The device process with an encrypted model directory, on the emulator."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import psutil
import pytest

from device_svc.engine import CoreEngine
from tests.support.device_client import device_session
from tests.support.service_process import ROOT, service_process
from tpuserve import bmodel, encryption, model_dir, runtime_library

DEMO = ROOT / "models" / "demo"
PROMPT = [(7 * index * index + index) % 1000 + 3 for index in range(90)]


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A directory with the encrypted demo model in `model` and its key in `key`."""
    encryption.write_new_key(tmp_path / "key")
    key = encryption.read_key(tmp_path / "key")
    encryption.encrypt_directory(DEMO, tmp_path / "model", key)
    return tmp_path


def arguments(model: Path, *more: str) -> tuple[str, ...]:
    listen = ("--listen", "127.0.0.1:0", "--slots", "2", "--log-level", "debug")
    return ("--model", str(model), "--runtime", "emulator", *listen, *more)


async def answer(address: str) -> list[int]:
    # The identity is the plain bmodel's: gateways may use both kinds of device together.
    sha256 = model_dir.bmodel_sha256(model_dir.load(DEMO))
    async with device_session(address, sha256) as session:
        await session.submit("a", PROMPT, 12)
        ids, finish = await session.result("a")
        assert finish == "LENGTH"
        return ids


async def test_answers_as_the_plain_model_and_leaves_no_plaintext(sealed: Path) -> None:
    scratch = sealed / "scratch"
    scratch.mkdir()
    named = {"TPUSERVE_KEY_FILE": str(sealed / "key"), "TMPDIR": str(scratch)}
    model = arguments(sealed / "model")
    with service_process("device_svc", *model, stderr=sealed / "log", env=named) as process:
        found = await answer(process.wait_for("ready")["address"])
        kept = await asyncio.to_thread(open_files, process.process.pid)
        log = "\n".join(process.log)
    with service_process("device_svc", *arguments(DEMO), stderr=sealed / "log2") as process:
        assert found == await answer(process.wait_for("ready")["address"])
    assert (sealed / "key").read_text().strip() not in log
    assert list(scratch.iterdir()) == []
    assert not any(path.startswith(("/memfd:bmodel", str(sealed / "model"))) for path in kept)


def open_files(pid: int) -> list[str]:
    """What the process's descriptors lead to, and what it has mapped."""
    folder = Path(f"/proc/{pid}/fd")
    mapped = [each.path for each in psutil.Process(pid).memory_maps()]
    return [*(os.readlink(link) for link in folder.iterdir()), *mapped]


def test_refuses_to_start_with_another_key_or_none(sealed: Path) -> None:
    encryption.write_new_key(sealed / "other")
    other = ("--key-file", str(sealed / "other"))
    for more, text in ((other, "was encrypted with another key"), ((), "name its key with")):
        model = arguments(sealed / "model", *more)
        with service_process("device_svc", *model, stderr=sealed / "log") as process:
            assert process.exit_status() == 1
            record = process.record("cannot start")
        assert record is not None
        assert text in record["reason"]


def test_refuses_damaged_weights(sealed: Path) -> None:
    (file,) = (sealed / "model").glob("*.bmodel")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    model = arguments(sealed / "model", "--key-file", str(sealed / "key"))
    with service_process("device_svc", *model, stderr=sealed / "log") as process:
        assert process.exit_status() == 1
        record = process.record("cannot start")
    assert record is not None
    assert "is not what was encrypted" in record["reason"]


def test_decrypts_in_host_memory_where_the_runtime_cannot(sealed: Path) -> None:
    opened = encryption.unlock(model_dir.load(sealed / "model").bmodel, sealed / "key")
    assert opened is not None
    library = runtime_library.find("emulator")
    engine = CoreEngine(
        [opened],
        library.directory,
        emulator=True,
        chips=[0],
        slots=1,
        memories=[bmodel.memory_budget(encryption.read_bmodel(opened))],
        decrypt_whole=True,
    )
    try:
        assert engine.shape.vocab_size == 1024
    finally:
        engine.close()
