"""A gateway whose devices change their models under it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from device_svc.engine_api import Engine
from device_svc.service import DeviceService
from device_svc.swap import ModelPlan, SwapConfig
from tests.integration.test_device_loss import TOKENS, tokens
from tests.support.device_client import channel_to
from tests.support.fake_core import FakeEngine, expected_tokens
from tests.support.fake_device import FAKE_SHA256, fake_config
from tests.unit.gateway.conftest import running
from tests.unit.gateway.fakes import VOCAB, FakeTokenizer, eventually
from tpuserve.bmodel import MemoryBudget
from tpuserve.v1 import device_pb2, device_pb2_grpc, generation_pb2

OTHER_SHA256 = "07" * 32


def plan(directory: Path, **engine: Any) -> ModelPlan:
    """Directories are called MODEL@CONTEXT; the first model's bmodel is the one of 512."""
    name, _, context = directory.name.partition("@")

    def open_engine(*, memories: Sequence[MemoryBudget]) -> Engine:
        return FakeEngine(vocab_size=VOCAB, context_length=int(context), **engine)

    sha256 = FAKE_SHA256 if directory.name == "fake@512" else OTHER_SHA256
    memories = (MemoryBudget(1, 1, 1, 1),)
    return ModelPlan(name, sha256, (0,), 4, memories, ({},), None, open_engine)


class SwappingDevice:
    """A device service on the test's loop, for a gateway's fixture."""

    def __init__(self, name: str, root: Path, **engine: Any) -> None:
        self.name = name
        self.address = ""
        self._root = root
        self._engine = engine
        self._service: DeviceService | None = None

    async def start(self) -> None:
        resident = plan(self._root / "fake@512", **self._engine)
        swap = SwapConfig((self._root,), plan, resident, chip_bytes=1000)
        self._service = DeviceService(
            replace(fake_config(name=self.name), swap=swap),
            lambda: resident.open_engine(memories=()),
        )
        port = await self._service.start("127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"

    async def kill(self) -> None:
        service, self._service = self._service, None
        if service is not None:
            await service.drain(0)

    async def swap(self, directory: str, *, preempt: bool = False) -> device_pb2.SwapModelReply:
        async with channel_to(self.address) as channel:
            stub: device_pb2_grpc.DeviceAsyncStub = device_pb2_grpc.DeviceStub(channel)
            request = device_pb2.SwapModelRequest(model_directory=directory, preempt=preempt)
            return await stub.SwapModel(request, timeout=10)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("fake@512", "fake@40", "other@512"):
        (tmp_path / name).mkdir()
    return tmp_path


async def test_preempted_requests_go_on_elsewhere(root: Path) -> None:
    gate = threading.Event()
    first = SwappingDevice("first", root, before_launch=lambda: gate.wait(10))
    second = SwappingDevice("second", root)
    gate.set()
    devices: Any = [first, second]
    async with running(*devices, tokenizer=FakeTokenizer()) as world:
        here, there = world.gateway.devices
        there.refusal = "not yet"
        gate.clear()
        call = asyncio.create_task(tokens(world, [5, 6, 7]))
        await eventually(lambda: any(s.accepted for s in here.sequences))
        there.refusal = None
        change = asyncio.create_task(first.swap("fake@40", preempt=True))
        await eventually(lambda: not here.ready)
        gate.set()
        assert await call == expected_tokens([5, 6, 7], TOKENS, vocab_size=VOCAB)
        await change
        # The gateway learns what the device is now, and uses it for what fits.
        await eventually(lambda: here.ready and here.facts and here.facts.context_length == 40)
        for prompt in ([7], [8], [1] * 60, [2] * 60, [3] * 60):
            assert await tokens(world, prompt) == expected_tokens(prompt, TOKENS, vocab_size=VOCAB)


async def test_requests_wait_while_the_model_is_away(root: Path) -> None:
    """With tokens delivered they need their bmodel again, which comes back in time."""
    gate = threading.Event()
    gate.set()
    device = SwappingDevice("only", root, before_launch=lambda: gate.wait(10))
    devices: Any = [device]
    async with running(*devices, tokenizer=FakeTokenizer()) as world:
        [session] = world.gateway.devices
        gate.clear()
        call = asyncio.create_task(tokens(world, [5, 6, 7]))
        await eventually(lambda: any(s.accepted for s in session.sequences))
        change = asyncio.create_task(device.swap("other@512", preempt=True))
        await eventually(lambda: not session.ready)
        gate.set()
        await change
        await eventually(lambda: session.facts and session.facts.model == "other")
        assert not call.done()
        assert "no tokenizer serves model other" in session.state
        await device.swap("fake@512")
        assert await call == expected_tokens([5, 6, 7], TOKENS, vocab_size=VOCAB)


async def test_requests_fail_clearly_when_the_model_stays_away(root: Path) -> None:
    device = SwappingDevice("only", root)
    devices: Any = [device]
    async with running(*devices, tokenizer=FakeTokenizer(), failover_wait_s=0.2) as world:
        await device.swap("other@512")
        [session] = world.gateway.devices
        await eventually(lambda: session.facts and session.facts.model == "other")
        ids = generation_pb2.TokenIds(ids=[5])
        for model, reason in (("fake", "no healthy device serves model fake"), ("", "other")):
            request = generation_pb2.GenerateRequest(model=model, token_ids=ids)
            with pytest.raises(grpc.aio.AioRpcError, match=reason) as caught:
                await world.stub.GenerateOnce(request)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_what_the_new_bmodel_cannot_hold_fails_at_once(root: Path) -> None:
    """Of what waits, at the device or before it; the rest goes on."""
    gate = threading.Event()
    gate.set()
    device = SwappingDevice("only", root, before_launch=lambda: gate.wait(10))
    devices: Any = [device]
    async with running(*devices, tokenizer=FakeTokenizer()) as world:
        [session] = world.gateway.devices
        gate.clear()
        prompts = [*([n, 3] for n in range(3)), *([n] * 60 for n in range(5))]
        calls = [asyncio.create_task(tokens(world, prompt)) for prompt in prompts]
        await eventually(lambda: session.requests == 6)
        change = asyncio.create_task(device.swap("fake@40", preempt=True))
        await eventually(lambda: not session.ready)
        gate.set()
        await change
        for prompt, call in zip(prompts, calls, strict=True):
            if len(prompt) < 40:
                assert await call == expected_tokens(prompt, TOKENS, vocab_size=VOCAB)
                continue
            with pytest.raises(grpc.aio.AioRpcError, match="60 prompt tokens and 24") as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_device_that_stops_takes_a_waiting_change_back(root: Path) -> None:
    gate = threading.Event()
    gate.set()
    device = SwappingDevice("only", root, before_launch=lambda: gate.wait(10))
    devices: Any = [device]
    async with running(*devices, tokenizer=FakeTokenizer(), failover_wait_s=0.2) as world:
        [session] = world.gateway.devices
        gate.clear()
        call = asyncio.create_task(tokens(world, [5, 6, 7]))
        await eventually(lambda: any(s.accepted for s in session.sequences))
        change = asyncio.create_task(device.swap("fake@40"))
        await eventually(lambda: not session.ready)
        stopped = asyncio.create_task(device.kill())
        with pytest.raises(grpc.aio.AioRpcError, match="about to stop"):
            await change
        gate.set()
        await stopped
        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def test_one_change_at_a_time_and_none_half_way(root: Path) -> None:
    gate = threading.Event()
    gate.set()
    device = SwappingDevice("only", root, before_launch=lambda: gate.wait(10))
    devices: Any = [device]
    async with running(*devices, tokenizer=FakeTokenizer()) as world:
        [session] = world.gateway.devices
        gate.clear()
        call = asyncio.create_task(tokens(world, [5, 6, 7]))
        await eventually(lambda: any(s.accepted for s in session.sequences))
        change = asyncio.create_task(device.swap("fake@40"))
        await eventually(lambda: not session.ready)
        with pytest.raises(grpc.aio.AioRpcError, match="being changed already"):
            await device.swap("fake@40")
        # Who asked for it gives up while requests are being finished: nothing has happened.
        change.cancel()
        await eventually(lambda: session.ready)
        gate.set()
        assert await call == expected_tokens([5, 6, 7], TOKENS, vocab_size=VOCAB)
        assert session.facts is not None
        assert session.facts.context_length == 512
        assert (await device.swap("fake@40")).model.bmodel_sha256 == OTHER_SHA256
