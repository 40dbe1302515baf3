"""The device service over the arithmetic engine: real servers, streams and processes.

After the prompt 1, 2, 3 come 9, 19, 39, 79.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import socket
import threading
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from device_svc.service import DeviceService
from tests.support.device_client import channel_to, device_session
from tests.support.fake_core import FakeEngine, expected_tokens
from tests.support.fake_device import FAKE_SHA256, fake_config, fake_device
from tpuserve.v1 import device_pb2, device_pb2_grpc, generation_pb2


class Gate:
    """Holds an engine at its launches. The warm-up's two are let through."""

    def __init__(self) -> None:
        self._permits = threading.Semaphore(2)
        self._entered = threading.Semaphore(0)
        self._open = False

    def __call__(self) -> None:
        self._entered.release()
        if not self._open:
            assert self._permits.acquire(timeout=20)

    async def entered(self, launches: int) -> None:
        """Wait until so many launches have begun since the last call."""
        for _ in range(launches):
            assert await asyncio.to_thread(self._entered.acquire, timeout=20)

    def let(self, launches: int) -> None:
        self._permits.release(launches)

    def open(self) -> None:
        self._open = True
        self._permits.release()


def sampled(seed: int) -> generation_pb2.SamplingParams:
    return generation_pb2.SamplingParams(temperature=0.7, seed=seed)


async def test_info_and_load() -> None:
    async with fake_device(FakeEngine(slots=3)) as address, channel_to(address) as channel:
        stub = device_pb2_grpc.DeviceStub(channel)
        info = await stub.GetInfo(device_pb2.GetDeviceInfoRequest())
        assert (info.name, info.model.name) == ("fake-0", "fake")
        assert info.model.bmodel_sha256 == FAKE_SHA256
        assert (info.context_length, info.max_prompt_length) == (512, 511)
        assert (info.prefill_chunk_tokens, info.vocab_size) == (64, 1024)
        assert (info.slots, info.max_waiting, list(info.chips)) == (3, 256, [0])
        assert list(info.features) == ["history", "logits", "prefix-cache"]
        assert (info.runtime.kind, info.runtime.version) == ("custom", "fake")
        load = await stub.GetLoad(device_pb2.GetLoadRequest())
        assert load == device_pb2.Load(
            free_slots=3, kv_capacity_tokens=3 * 512, longest_step_us=load.longest_step_us
        )
        # The warm-up's.
        assert load.longest_step_us > 0


async def test_requests_of_two_sessions_get_their_solo_tokens() -> None:
    async with (
        fake_device(FakeEngine(slots=4)) as address,
        device_session(address, FAKE_SHA256) as one,
        device_session(address, FAKE_SHA256) as other,
    ):
        await one.submit("a", [1, 2, 3])
        await other.submit("a", [5], 10)
        await one.submit("b", list(range(200)), 30, sampling=sampled(3))
        assert await one.result("a") == ([9, 19, 39, 79], "LENGTH")
        assert await one.result("b") == (expected_tokens(range(200), 30, seed=3), "LENGTH")
        assert await other.result("a") == (expected_tokens([5], 10), "LENGTH")


async def test_a_step_sends_one_frame_with_all_its_tokens() -> None:
    async with (
        fake_device(FakeEngine(slots=2)) as address,
        device_session(address, FAKE_SHA256) as session,
    ):
        await session.submit_together({"a": [1, 2, 3], "b": [4]}, 3)
        await session.result("a")
        await session.result("b")
        took_part = [[e.request_id for e in frame.emissions] for frame in session.frames]
        # Two prefill steps, then two decode steps for both.
        assert took_part == [["a"], ["b"], ["a", "b"], ["a", "b"]]
        first = session.frames[0].step
        assert [frame.step - first for frame in session.frames] == [0, 1, 2, 3]
        load = session.frames[-1].load
        assert (load.running, load.waiting, load.free_slots, load.kv_tokens) == (0, 0, 2, 0)
        assert load.kv_capacity_tokens == 2 * 512


async def test_logprobs_come_with_their_ids() -> None:
    async with (
        fake_device(FakeEngine()) as address,
        device_session(address, FAKE_SHA256) as session,
    ):
        await session.submit("a", [1, 2, 3], 1, logprobs=2)
        await session.result("a")
        (logprob,) = session.emissions("a")[0].logprobs
        assert (logprob.token_id, logprob.logprob) == (9, -1.0)
        assert [(c.token_id, c.logprob) for c in logprob.top] == [(10, -2.0), (11, -3.0)]


@pytest.mark.parametrize(
    ("fields", "code", "texts"),
    [
        ({"prompt_ids": []}, "INVALID", ["empty"]),
        ({"prompt_ids": [1] * 512}, "INVALID", ["512", "511"]),
        ({"prompt_ids": [1, 1024]}, "INVALID", ["prompt_ids[1]", "1024"]),
        ({"resume_ids": [4000]}, "INVALID", ["resume_ids[0]", "4000", "1024"]),
        ({"max_tokens": 0}, "INVALID", ["max_tokens is 0"]),
        ({"priority": 77}, "INVALID", ["priority is 77"]),
        ({"prefix_key": "k" * 257}, "INVALID", ["257", "256"]),
        (
            {"sampling": generation_pb2.SamplingParams(temperature=float("nan"))},
            "INVALID",
            ["temperature is nan", "[0, 100]"],
        ),
        ({"logprobs": 21}, "INVALID", ["21", "20"]),
        ({"bmodel_sha256": "beef"}, "WRONG_MODEL", ["beef", FAKE_SHA256]),
    ],
)
async def test_what_cannot_be_served_is_rejected_with_its_numbers(
    fields: dict[str, object], code: str, texts: list[str]
) -> None:
    async with (
        fake_device(FakeEngine()) as address,
        device_session(address, FAKE_SHA256) as session,
    ):
        await session.submit("bad", **{"prompt_ids": [1, 2], **fields})  # type: ignore[arg-type]
        found, detail = await session.rejection("bad")
        assert found == code
        assert all(text in detail for text in texts), detail
        # The stream goes on.
        await session.submit("good", [1, 2, 3])
        assert await session.result("good") == ([9, 19, 39, 79], "LENGTH")


async def test_an_argmax_head_refuses_sampling() -> None:
    async with (
        fake_device(FakeEngine(argmax=True)) as address,
        device_session(address, FAKE_SHA256) as session,
    ):
        await session.submit("a", [1, 2, 3], sampling=sampled(1))
        assert (await session.rejection("a"))[0] == "UNSUPPORTED"
        await session.submit("b", [1, 2, 3])
        assert (await session.result("b"))[0] == [9, 19, 39, 79]


async def test_busy_duplicate_and_the_room_that_a_finish_makes() -> None:
    gate = Gate()
    engine = FakeEngine(slots=1, before_launch=gate)
    async with (
        fake_device(engine, fake_config(max_waiting=1)) as address,
        device_session(address, FAKE_SHA256) as session,
    ):
        await session.submit("a", [1, 2, 3])
        await session.submit("a", [1, 2, 3])
        assert (await session.rejection("a"))[0] == "DUPLICATE"
        await session.submit("b", [1, 2, 3])
        await session.submit("c", [1, 2, 3])
        code, detail = await session.rejection("c")
        assert (code, "1 slots and 1 waiting" in detail) == ("BUSY", True)
        gate.open()
        assert await session.result("b") == ([9, 19, 39, 79], "LENGTH")
        await session.submit("c", [1, 2, 3])
        assert await session.result("c") == ([9, 19, 39, 79], "LENGTH")


async def test_cancel_frees_the_slot_after_the_running_step() -> None:
    gate = Gate()
    engine = FakeEngine(slots=1, before_launch=gate)
    async with fake_device(engine) as address, device_session(address, FAKE_SHA256) as session:
        await gate.entered(2)
        await session.submit("a", [1, 2, 3], 400)
        await gate.entered(1)
        await session.submit("b", [4], 1)
        await session.cancel("a")
        assert (await session.load()).waiting == 1
        # The command is with the device; the prefill of "a" runs on, then comes "b".
        gate.let(2)
        assert await session.result("a") == ([9], "CANCELLED")
        assert await session.result("b") == (expected_tokens([4], 1), "LENGTH")
        assert engine.launches == 2 + 1 + 1


@pytest.mark.parametrize("how", ["cancel", "disconnect"])
async def test_a_stream_that_ends_takes_its_requests_with_it(how: str) -> None:
    gate = Gate()
    engine = FakeEngine(slots=2, before_launch=gate)
    async with fake_device(engine) as address, device_session(address, FAKE_SHA256) as watcher:
        await gate.entered(2)
        async with device_session(address, FAKE_SHA256) as session:
            for index in range(5):
                await session.submit(f"r{index}", [index], 400)
            await gate.entered(1)
            while (await watcher.load()).waiting + (await watcher.load()).running < 5:
                pass
            if how == "cancel":
                session.call.cancel()
        gate.open()
        load = await watcher.until_idle()
        assert (load.free_slots, load.kv_tokens) == (2, 0)
        await watcher.submit("a", [1, 2, 3])
        assert await watcher.result("a") == ([9, 19, 39, 79], "LENGTH")


async def test_a_half_closed_stream_is_served_to_its_end() -> None:
    async with (
        fake_device(FakeEngine()) as address,
        device_session(address, FAKE_SHA256) as session,
    ):
        await session.submit("a", [1, 2, 3])
        await session.call.done_writing()
        await session.read_all()
        assert session.ids("a") == [9, 19, 39, 79]
        assert await session.call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("waiting", [False, True])
async def test_a_deadline_ends_a_request_waiting_or_running(waiting: bool) -> None:
    engine = FakeEngine(slots=1, launch_s=0.005, context_length=4096)
    async with fake_device(engine) as address, device_session(address, FAKE_SHA256) as session:
        if waiting:
            await session.submit("first", [1], 100)
        await session.submit("a", [1, 2, 3], 4000, deadline_ms=100)
        ids, finish = await session.result("a")
        assert finish == "DEADLINE"
        assert ids == ([] if waiting else expected_tokens([1, 2, 3], len(ids)))
        assert waiting or 1 <= len(ids) <= 25


async def test_a_slow_reader_loses_its_session_and_slows_nobody() -> None:
    engine = FakeEngine(slots=2, context_length=8000, launch_s=0.0005)
    config = dataclasses.replace(fake_config(), max_unread_events=200)
    # A small, fixed flow-control window: what the client does not read stays at the server.
    window = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536))
    async with (
        fake_device(engine, config) as address,
        device_session(address, FAKE_SHA256, *window) as slow,
        device_session(address, FAKE_SHA256) as quick,
    ):
        # Logprobs make long frames, so that the window fills soon.
        await slow.submit("s", [1, 2, 3], 7000, logprobs=20)
        await quick.submit("q", [5], 300)
        assert await quick.result("q") == (expected_tokens([5], 300), "LENGTH")
        await quick.until_idle()
        # The slow session's request was stopped long before its end.
        assert engine.launches < 2000
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await slow.read_all()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "200 events" in (caught.value.details() or "")


async def test_a_shared_prompt_is_reused_and_told() -> None:
    engine = FakeEngine(slots=1, chunk_tokens=16)
    async with fake_device(engine) as address, device_session(address, FAKE_SHA256) as session:
        for name in ("a", "b"):
            await session.submit(name, range(40), prefix_key="system")
            assert await session.result(name) == (expected_tokens(range(40), 4), "LENGTH")
        assert [session.accepted[name].cached_tokens for name in ("a", "b")] == [0, 32]


async def test_a_higher_priority_takes_the_slot_for_a_while() -> None:
    gate = Gate()
    engine = FakeEngine(slots=1, before_launch=gate)
    async with fake_device(engine) as address, device_session(address, FAKE_SHA256) as session:
        await gate.entered(2)
        await session.submit("low", [1, 2, 3], priority=generation_pb2.PRIORITY_BULK)
        await gate.entered(1)
        await session.submit("high", [4], 1, priority=generation_pb2.PRIORITY_SYSTEM)
        assert (await session.load()).waiting == 1
        gate.open()
        assert await session.result("low") == ([9, 19, 39, 79], "LENGTH")
        order = [e.request_id for frame in session.frames for e in frame.emissions]
        assert order == ["low", "high", "low", "low", "low"]


async def test_resume_by_prefill_takes_fewer_launches() -> None:
    engine = FakeEngine()
    async with fake_device(engine) as address, device_session(address, FAKE_SHA256) as session:
        for by_prefill, launches in ((False, 4), (True, 2)):
            before = engine.launches
            await session.submit("a", [1, 2, 3], resume_ids=[9, 19], resume_by_prefill=by_prefill)
            assert await session.result("a") == ([39, 79], "LENGTH")
            assert engine.launches - before == launches
            session.forget("a")


async def test_many_clients_that_come_and_go_leave_nothing_behind() -> None:
    """Each request is finished, cancelled or abandoned; all tokens are those of a solo run."""
    engine = FakeEngine(slots=4, decode_rows=3, chunk_tokens=16, launch_s=0.0002)
    async with fake_device(engine) as address:
        await asyncio.gather(*(one_client(address, random.Random(seed)) for seed in range(12)))
        async with device_session(address, FAKE_SHA256) as watcher:
            load = await watcher.until_idle()
    assert (load.free_slots, load.kv_tokens) == (4, 0)
    # Whole prefill chunks stay for prompts that begin alike.
    assert all(engine.length(slot) in (0, 16, 32, 48) for slot in range(4))


async def one_client(address: str, choice: random.Random) -> None:
    """Three sessions of six requests each; a third of each is cancelled, the last is left open."""
    for _ in range(3):
        async with device_session(address, FAKE_SHA256) as session:
            prompts = {
                f"r{n}": [choice.randrange(1024) for _ in range(choice.randrange(1, 60))]
                for n in range(6)
            }
            await session.submit_together(prompts, choice.randrange(1, 20))
            cancelled = [name for name in prompts if choice.random() < 0.3]
            for name in cancelled:
                await session.cancel(name)
            for name, prompt in list(prompts.items())[:5]:
                ids, finish = await session.result(name)
                assert ids == expected_tokens(prompt, len(ids))
                assert finish == "LENGTH" or (finish == "CANCELLED" and name in cancelled)


async def test_health_says_not_serving_until_the_model_is_warm() -> None:
    gate = threading.Event()
    engine = FakeEngine(before_launch=lambda: assert_set(gate))
    service = DeviceService(fake_config(), lambda: engine)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    start = asyncio.create_task(service.start(address))
    try:
        async with channel_to(address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            name = health_pb2.HealthCheckRequest(service="tpuserve.v1.Device")
            status = health_pb2.HealthCheckResponse
            reply = await health.Check(name, wait_for_ready=True, timeout=10)
            assert reply.status == status.NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await device_pb2_grpc.DeviceStub(channel).GetInfo(device_pb2.GetDeviceInfoRequest())
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            gate.set()
            await start
            assert (await health.Check(name)).status == status.SERVING
    finally:
        gate.set()
        await start
        await service.drain(0)


def assert_set(event: threading.Event) -> None:
    assert event.wait(20)


async def test_a_unix_socket_serves_too(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/device.sock"
    async with (
        fake_device(FakeEngine(), listen=listen) as address,
        device_session(address, FAKE_SHA256) as session,
    ):
        await session.submit("a", [1, 2, 3])
        assert await session.result("a") == ([9, 19, 39, 79], "LENGTH")
