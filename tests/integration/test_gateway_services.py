"""The gateway with the real tokenizer and device services; only the engine is arithmetic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from gateway.app import Gateway
from gateway.settings import Settings
from tests.support.fake_core import FakeEngine, expected_tokens
from tests.support.fake_device import fake_config, fake_device
from tests.unit.gateway.fakes import eventually
from tokenizer_svc import settings as tokenizer_settings
from tokenizer_svc.__main__ import serve as serve_tokenizer
from tpuserve.v1 import device_pb2, device_pb2_grpc, generation_pb2, generation_pb2_grpc

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
MODEL = "tpuserve-demo"
TOKENS = 60


@dataclass
class Fleet:
    gateway: Gateway
    stub: Any
    devices: list[AsyncExitStack]
    engines: list[FakeEngine]
    addresses: list[str]


@asynccontextmanager
async def fleet(directory: Path, *, devices: int, launch_s: float = 0.0) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        tokenizer = f"unix:{directory}/tokenizer.sock"
        stop = asyncio.Event()
        options = tokenizer_settings.Settings(DEMO, tokenizer, None, "info", grace_s=0.1)
        serving = asyncio.create_task(serve_tokenizer(options, stop))
        stack.push_async_callback(asyncio.wait_for, serving, 10)
        stack.callback(stop.set)
        engines, owners, addresses = [], [], []
        for i in range(devices):
            owner = await stack.enter_async_context(AsyncExitStack())
            engine = FakeEngine(launch_s=launch_s)
            config = fake_config(name=f"fake-{i}", model=MODEL)
            addresses.append(await owner.enter_async_context(fake_device(engine, config)))
            engines.append(engine)
            owners.append(owner)
        gateway = Gateway(
            replace(
                Settings((tokenizer,), tuple(addresses)),
                grpc_listen="127.0.0.1:0",
                http_listen="127.0.0.1:0",
                drain_grace_s=0.2,
            )
        )
        await gateway.start()
        stack.push_async_callback(gateway.drain)
        await eventually(lambda: all(device.ready for device in gateway.devices))
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(f"127.0.0.1:{gateway.grpc_port}")
        )
        stub = generation_pb2_grpc.GenerationStub(channel)
        yield Fleet(gateway, stub, owners, engines, addresses)


def request(**fields: Any) -> generation_pb2.GenerateRequest:
    fields.setdefault("stopping", generation_pb2.StoppingParams(max_tokens=TOKENS, ignore_eos=True))
    return generation_pb2.GenerateRequest(
        token_ids=generation_pb2.TokenIds(ids=[100, 200, 300]), **fields
    )


@dataclass
class Received:
    text: str = ""
    ids: tuple[int, ...] = ()
    logprobs: tuple[Any, ...] = ()
    finished: generation_pb2.Finished | None = None

    def add(self, chunk: generation_pb2.GenerateChunk) -> None:
        self.text += chunk.delta.text
        self.ids += tuple(chunk.delta.token_ids)
        self.logprobs += tuple(
            (e.token_id, e.logprob, e.token, [c.token for c in e.top]) for e in chunk.delta.logprobs
        )
        if chunk.HasField("finished"):
            self.finished = chunk.finished


CASES = {
    "greedy": request(),
    "seeded": request(sampling=generation_pb2.SamplingParams(temperature=1, seed=7)),
    "logprobs": request(logprobs=generation_pb2.LogprobParams(top=3)),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_device_that_dies_at_any_token_changes_nothing(tmp_path: Path, case: str) -> None:
    async with fleet(tmp_path, devices=1) as unharmed:
        whole = Received()
        async for chunk in unharmed.stub.Generate(CASES[case]):
            whole.add(chunk)
    seed = 7 if case == "seeded" else 0
    assert whole.ids == tuple(expected_tokens([100, 200, 300], TOKENS, seed=seed))
    for lost_at in (1, 2, 17, 40):
        directory = tmp_path / str(lost_at)
        directory.mkdir()
        async with fleet(directory, devices=2, launch_s=0.003) as running:
            call = running.stub.Generate(CASES[case])
            started = (await call.read()).started
            received = Received()
            while len(received.ids) < lost_at:
                received.add(await call.read())
            await running.devices[int(started.device[-1])].aclose()
            while (chunk := await call.read()) is not grpc.aio.EOF:
                received.add(chunk)
            assert received.text == whole.text
            assert received.ids == whole.ids
            assert received.logprobs == whole.logprobs
            assert received.finished is not None
            assert received.finished.usage.completion_tokens == TOKENS
            assert all(engine.launches > 2 for engine in running.engines)


async def test_32_at_once_answer_as_one_after_another(tmp_path: Path) -> None:
    async with fleet(tmp_path, devices=2) as running:
        requests = [
            request(sampling=generation_pb2.SamplingParams(temperature=1, seed=i))
            for i in range(32)
        ]
        serial = [(await running.stub.GenerateOnce(r)).completions[0].text for r in requests]
        together = await asyncio.gather(*(running.stub.GenerateOnce(r) for r in requests))
        assert [reply.completions[0].text for reply in together] == serial
        assert len(set(serial)) == 32


async def test_a_stop_text_and_a_cancel_free_the_slot(tmp_path: Path) -> None:
    async with fleet(tmp_path, devices=1, launch_s=0.005) as running:
        channel = grpc.aio.insecure_channel(running.addresses[0])
        device: Any = device_pb2_grpc.DeviceStub(channel)

        async def freed() -> None:
            while (await device.GetLoad(device_pb2.GetLoadRequest())).running:
                pass

        whole = (await running.stub.GenerateOnce(request())).completions[0].text
        stop = whole[20:24]
        stopping = generation_pb2.StoppingParams(max_tokens=500, ignore_eos=True, stop=[stop])
        reply = await running.stub.GenerateOnce(request(stopping=stopping))
        assert reply.completions[0].text == whole[: whole.index(stop)]
        assert reply.completions[0].stop == stop
        await asyncio.wait_for(freed(), 10)
        stopping = generation_pb2.StoppingParams(max_tokens=500, ignore_eos=True)
        call = running.stub.Generate(request(stopping=stopping))
        await call.read()
        assert (await device.GetLoad(device_pb2.GetLoadRequest())).running == 1
        call.cancel()
        await asyncio.wait_for(freed(), 10)
        assert running.engines[0].launches < 500
        await channel.close()
