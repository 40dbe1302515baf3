"""Changing the resident bmodel of a device process on the emulator."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.support.device_client import channel_to, device_session
from tests.support.service_process import ROOT, service_process
from tpuserve import model_dir
from tpuserve.v1 import device_pb2, device_pb2_grpc

FIXTURES = ROOT / "tests" / "fixtures" / "models"
# These two have the same weights and KV rows; the first takes a prefix of 64 tokens and 32 behind
# it in a context of 192, the second 96 and 64 in 256.
SHARE, PROMPT = FIXTURES / "share", FIXTURES / "prompt"
STATIC = FIXTURES / "static"
SHARED = [3 + (index * index * 7 + index) % 1000 for index in range(64)]
WEIGHT_BYTES = 1_966_080
# Of its memory, before the first allocation.
EMULATOR_RESERVED = 0x5100000


@dataclass(frozen=True)
class Device:
    address: str

    async def swap(self, directory: Path | str, **fields: Any) -> device_pb2.SwapModelReply:
        async with channel_to(self.address) as channel:
            stub: device_pb2_grpc.DeviceAsyncStub = device_pb2_grpc.DeviceStub(channel)
            request = device_pb2.SwapModelRequest(model_directory=str(directory), **fields)
            return await stub.SwapModel(request, timeout=20)

    async def refusal(self, directory: Path | str, **fields: Any) -> tuple[str, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.swap(directory, **fields)
        return caught.value.code().name, caught.value.details() or ""

    async def model(self) -> str:
        async with device_session(self.address, "") as session:
            info = await session.stub.GetInfo(device_pb2.GetDeviceInfoRequest())
        return info.model.name

    async def ask(self, model: Path, prompt_ids: list[int]) -> tuple[int, list[int]]:
        """Cached tokens and the completion."""
        async with device_session(self.address, sha256_of(model)) as session:
            await session.submit("a", prompt_ids, 6)
            ids, finish = await session.result("a")
            assert finish == "LENGTH"
            return session.accepted["a"].cached_tokens, ids


def sha256_of(model: Path) -> str:
    return model_dir.bmodel_sha256(model_dir.load(model))


@contextmanager
def started(
    model: Path, log: Path, *arguments: str, memory_bytes: int | None = None
) -> Iterator[Device]:
    env = {} if memory_bytes is None else {"CMODEL_GLOBAL_MEM_SIZE": hex(memory_bytes)}
    with service_process(
        "device_svc",
        *("--model", str(model), "--runtime", "emulator", "--listen", "127.0.0.1:0"),
        *("--slots", "2", *arguments),
        stderr=log,
        env=env,
    ) as process:
        yield Device(process.wait_for("ready")["address"])


async def test_rows_and_weights_outlive_the_change(tmp_path: Path) -> None:
    """There and back: another split and context length, the prompt's rows are found each time."""
    with started(
        SHARE, tmp_path / "log", "--swap-root", str(FIXTURES), "--prefix-cache", "fast"
    ) as device:
        question = [*SHARED, 7, 8, 9]
        cached, cold = await device.ask(SHARE, question)
        assert cached == 0
        reply = await device.swap(PROMPT, bmodel_sha256=sha256_of(PROMPT))
        assert (reply.previous.name, reply.model.name) == (
            "tpuserve-demo-share",
            "tpuserve-demo-prompt",
        )
        assert reply.model.bmodel_sha256 == sha256_of(PROMPT)
        assert (reply.weight_bytes, reply.shared_weight_bytes) == (WEIGHT_BYTES, WEIGHT_BYTES)
        assert not reply.unloaded_first
        assert reply.kept_kv_tokens >= 64
        async with device_session(device.address, sha256_of(SHARE)) as session:
            info = await session.stub.GetInfo(device_pb2.GetDeviceInfoRequest())
            assert (info.context_length, info.max_prompt_length) == (256, 160)
            await session.submit("old", [1])
            code, detail = await session.rejection("old")
            assert code == "WRONG_MODEL"
            assert sha256_of(PROMPT) in detail
        cached, warm = await device.ask(PROMPT, question)
        assert cached >= 64
        assert warm == cold
        longer = [*SHARED, *range(200, 280)]
        assert (await device.ask(PROMPT, longer))[0] == 64
        # What is longer than the shorter context's nets take is cut, not lost.
        reply = await device.swap("share")
        assert reply.kept_kv_tokens > 0
        cached, warm = await device.ask(SHARE, [*longer[:90], 5])
        assert cached == 64
        assert (await device.ask(SHARE, question))[1] == cold
        assert warm == (await cold_answer(tmp_path, [*longer[:90], 5]))


async def cold_answer(tmp_path: Path, prompt_ids: list[int]) -> list[int]:
    with started(SHARE, tmp_path / "cold", "--prefix-cache", "off") as device:
        return (await device.ask(SHARE, prompt_ids))[1]


async def test_other_weights_drop_the_rows(tmp_path: Path) -> None:
    with started(SHARE, tmp_path / "log", "--swap-root", str(FIXTURES)) as device:
        await device.ask(SHARE, [*SHARED, 1])
        reply = await device.swap(STATIC)
        # The embedding alone is the same block.
        assert 0 < reply.shared_weight_bytes < reply.weight_bytes
        assert reply.kept_kv_tokens == 0
        cached, ids = await device.ask(STATIC, SHARED)
        assert (cached, len(ids)) == (0, 6)
        # Back again nothing is left, and what the nets compute is what they computed.
        await device.swap(SHARE)
        assert (await device.ask(SHARE, [*SHARED, 1]))[0] == 0


async def test_what_is_refused_leaves_the_model_alone(tmp_path: Path) -> None:
    root = tmp_path / "models"
    shutil.copytree(SHARE, root / "corrupt")
    copied = model_dir.ModelDirError
    toml = (root / "corrupt" / "tpuserve.toml").read_text()
    (root / "corrupt" / "tpuserve.toml").write_text(
        toml.replace("../../../../models/demo/config", str(ROOT / "models/demo/config"))
    )
    bmodel = next((root / "corrupt").glob("*.bmodel"))
    content = bytearray(bmodel.read_bytes())
    content[-1000] ^= 1
    bmodel.write_bytes(content)
    with pytest.raises(copied):
        sha256_of(root / "corrupt")
    (root / "empty").mkdir()
    with started(SHARE, tmp_path / "log", "--swap-root", str(root)) as device:
        code, detail = await device.refusal("corrupt")
        assert code == "INVALID_ARGUMENT"
        assert "is corrupt: its SHA-256 is" in detail
        code, detail = await device.refusal("empty")
        assert (code, "empty" in detail) == ("INVALID_ARGUMENT", True)
        for outside in (PROMPT, "../prompt", "no-such", "/etc"):
            code, detail = await device.refusal(outside)
            assert code == "PERMISSION_DENIED"
            assert f"{str(outside)!r} is no directory below" in detail
        assert (await device.refusal(""))[0] == "INVALID_ARGUMENT"
        assert await device.model() == "tpuserve-demo-share"
        assert len((await device.ask(SHARE, [*SHARED, 1]))[1]) == 6


async def test_an_unexpected_hash_is_refused(tmp_path: Path) -> None:
    with started(SHARE, tmp_path / "log", "--swap-root", str(FIXTURES)) as device:
        code, detail = await device.refusal(PROMPT, bmodel_sha256="ab" * 32)
        assert code == "INVALID_ARGUMENT"
        assert detail.endswith("expected was " + "ab" * 32)
    with started(SHARE, tmp_path / "log", *()) as device:
        assert (await device.refusal(PROMPT))[0] == "FAILED_PRECONDITION"


async def test_a_chip_too_small_for_both_holds_one_after_the_other(tmp_path: Path) -> None:
    """And for a bmodel that does not fit even alone, with the numbers."""
    memory_bytes = EMULATOR_RESERVED + 0x3C0000
    with started(
        SHARE, tmp_path / "log", "--swap-root", str(FIXTURES), memory_bytes=memory_bytes
    ) as device:
        cached, cold = await device.ask(SHARE, [*SHARED, 1])
        reply = await device.swap(STATIC)
        assert reply.unloaded_first
        assert len((await device.ask(STATIC, SHARED))[1]) == 6
        code, detail = await device.refusal(FIXTURES / "argmax")
        assert (code, await device.model()) == ("RESOURCE_EXHAUSTED", "tpuserve-demo-static")
        assert "bytes on chip 0, which has 3932160;" in detail
        assert (await device.swap(SHARE)).unloaded_first
        assert (await device.ask(SHARE, [*SHARED, 1])) == (cached, cold)


async def test_weights_in_common_are_on_the_chip_once(tmp_path: Path) -> None:
    """Apart the two take 5.8 MB, which would end the emulator's process; together 3.9."""
    with started(
        SHARE,
        tmp_path / "log",
        *("--swap-root", str(FIXTURES), "--prefix-cache", "fast"),
        memory_bytes=EMULATOR_RESERVED + 5_000_000 // 4096 * 4096,
    ) as device:
        cold = await device.ask(SHARE, [*SHARED, 1])
        for model in (PROMPT, SHARE):
            reply = await device.swap(model)
            assert (reply.unloaded_first, reply.shared_weight_bytes) == (False, WEIGHT_BYTES)
            assert await device.ask(model, [*SHARED, 1]) == (64, cold[1])


async def test_running_requests_finish_or_end(tmp_path: Path) -> None:
    with started(SHARE, tmp_path / "log", "--swap-root", str(FIXTURES)) as device:
        async with device_session(device.address, sha256_of(SHARE)) as session:
            await session.submit("first", SHARED, 40)
            while not session.emissions("first"):
                await session.read()
            swap = asyncio.create_task(device.swap(PROMPT))
            ids, finish = await session.result("first")
            assert (len(ids), finish) == (40, "LENGTH")
            await swap
            with pytest.raises(grpc.aio.AioRpcError, match="another model"):
                await session.read_all()
        async with device_session(device.address, sha256_of(PROMPT)) as session:
            await session.submit("second", SHARED, 120)
            while not session.emissions("second"):
                await session.read()
            swap = asyncio.create_task(device.swap(SHARE, preempt=True))
            with pytest.raises(grpc.aio.AioRpcError, match="changes its model") as caught:
                await session.read_all()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert len(session.ids("second")) < 120
            await swap
        # What was delivered goes on behind a change back.
        await device.swap(PROMPT)
        async with device_session(device.address, sha256_of(PROMPT)) as again:
            delivered = session.ids("second")
            await again.submit("whole", SHARED, 20)
            await again.submit("second", SHARED, 20, resume_ids=delivered[:10])
            ids, _ = await again.result("second")
            assert [*delivered[:10], *ids] == (await again.result("whole"))[0]
