"""Devices and tokenizers that are lost while requests run."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest

from tests.unit.gateway.conftest import Start, World
from tests.unit.gateway.fakes import FakeDevice, FakeTokenizer, eventually
from tpuserve.v1 import device_pb2, generation_pb2

TOKENS = 40
DIGITS = "0123456789" * (TOKENS // 10)


def long_request(**fields: Any) -> generation_pb2.GenerateRequest:
    stopping = generation_pb2.StoppingParams(max_tokens=TOKENS)
    return generation_pb2.GenerateRequest(text="long", stopping=stopping, **fields)


async def read_until(call: Any, tokens: int) -> str:
    text = ""
    while len(text) < tokens:
        text += (await call.read()).delta.text
    return text


async def read_rest(call: Any) -> tuple[str, generation_pb2.Finished]:
    text = ""
    while True:
        chunk = await call.read()
        if chunk is grpc.aio.EOF:
            raise AssertionError("no Finished came")
        text += chunk.delta.text
        if chunk.HasField("finished"):
            return text, chunk.finished


@pytest.mark.parametrize("lost_at", [1, 2, 7, 39])
async def test_another_device_goes_on_behind_the_last_token(start: Start, lost_at: int) -> None:
    devices = [FakeDevice(name=f"dev-{i}") for i in range(2)]
    async with start(*devices) as world:
        for device in devices:
            device.hold()
        call = world.stub.Generate(long_request())
        await call.read()
        first = next(d for d in devices if d.running)
        other = next(d for d in devices if d is not first)
        first.allow(lost_at)
        text = await read_until(call, lost_at)
        other.allow(None)
        await first.kill()
        rest, finished = await read_rest(call)
        assert text + rest == DIGITS
        assert finished.reason == generation_pb2.FINISH_REASON_LENGTH
        assert finished.usage.completion_tokens == TOKENS
        assert bytes(other.submits[0].resume_ids).decode() == DIGITS[:lost_at]
        assert other.submits[0].sampling == first.submits[0].sampling
        metrics = world.gateway.registry.resolve("").metrics
        await eventually(lambda: metrics.success["length"] == 1)
        assert metrics.failovers["device"] == 1


async def test_the_same_device_goes_on_when_it_is_back(start: Start) -> None:
    device = FakeDevice()
    async with start(device) as world:
        device.hold()
        logprobs = generation_pb2.LogprobParams(top=1)
        call = world.stub.Generate(long_request(logprobs=logprobs, n=2))
        await call.read()
        device.allow(5)
        await eventually(lambda: device.steps == 5)
        await device.kill()
        await eventually(lambda: not world.gateway.devices[0].ready)
        await device.start()
        device.allow(None)
        texts, ids, entries = ["", ""], [b"", b""], [0, 0]
        while (chunk := await call.read()) is not grpc.aio.EOF:
            delta = chunk.delta
            texts[delta.index] += delta.text
            ids[delta.index] += bytes(delta.token_ids)
            entries[delta.index] += len(delta.logprobs)
        assert texts == [DIGITS, DIGITS]
        assert ids == [DIGITS.encode()] * 2
        assert entries == [TOKENS, TOKENS]
        assert len(device.submits) == 4


async def test_nothing_comes_back_in_time(start: Start) -> None:
    device = FakeDevice()
    async with start(device, failover_wait_s=0.1) as world:
        device.hold()
        call = world.stub.Generate(long_request())
        await call.read()
        device.allow(3)
        assert await read_until(call, 3) == "012"
        await device.kill()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "within 0.1 s" in str(caught.value.details())
        model = world.gateway.registry.resolve("")
        assert (model.metrics.prompt_tokens, model.metrics.generation_tokens) == (4, 3)
        assert world.gateway.metrics.failures["UNAVAILABLE", True] == 1


async def test_another_bmodel_does_not_take_over(start: Start) -> None:
    first = FakeDevice(name="a", sha256="aa" * 32)
    async with start(first, FakeDevice(name="b", sha256="bb" * 32), failover_wait_s=0.1) as world:
        for device in world.devices:
            device.hold()
        call = world.stub.Generate(long_request())
        await call.read()
        chosen = next(d for d in world.devices if d.running)
        other = next(d for d in world.devices if d is not chosen)
        chosen.allow(1)
        await read_until(call, 1)
        await chosen.kill()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert other.submits == []


async def test_a_request_that_loses_two_devices_is_given_up(start: Start) -> None:
    device = FakeDevice()
    async with start(device) as world:
        device.hold()
        call = world.stub.GenerateOnce(long_request())
        for _ in range(2):
            await eventually(lambda: device.running)
            await device.kill()
            await eventually(lambda: not world.gateway.devices[0].ready)
            await device.start()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "2 devices were lost or failed" in str(caught.value.details())


async def test_the_queue_outlives_a_short_outage_only(start: Start) -> None:
    device = FakeDevice(slots=1)
    async with start(device, failover_wait_s=0.1) as world:
        device.hold()
        calls = [world.stub.GenerateOnce(long_request()) for _ in range(5)]
        await eventually(lambda: world.gateway.registry.resolve("").dispatcher.waiting == 4)
        await device.kill()
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_full_or_draining_device_is_asked_again(start: Start) -> None:
    device = FakeDevice()
    device.reject = device_pb2.REJECT_CODE_BUSY
    async with start(device) as world:
        call = world.stub.GenerateOnce(generation_pb2.GenerateRequest(text="a"))
        await eventually(lambda: len(device.submits) >= 2)
        device.reject = None
        assert (await call).completions[0].text == "A"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (device_pb2.REJECT_CODE_INVALID, grpc.StatusCode.INVALID_ARGUMENT),
        (device_pb2.REJECT_CODE_UNSUPPORTED, grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
async def test_a_refusal_of_the_device_is_passed_on(
    world: World, code: device_pb2.RejectCode.ValueType, status: grpc.StatusCode
) -> None:
    world.device.reject = code
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.stub.GenerateOnce(generation_pb2.GenerateRequest(text="a"))
    assert (caught.value.code(), caught.value.details()) == (status, "as the test said")


async def test_a_swapped_bmodel_is_noticed(world: World) -> None:
    device = world.device
    device.reject = device_pb2.REJECT_CODE_WRONG_MODEL
    device.info.model.bmodel_sha256 = "cd" * 32
    call = world.stub.GenerateOnce(generation_pb2.GenerateRequest(text="a"))
    await eventually(lambda: len(device.submits) == 1)
    device.reject = None
    assert (await call).completions[0].text == "A"
    assert [s.bmodel_sha256[:2] for s in device.submits] == ["ab", "cd"]


@pytest.mark.parametrize("prompt", ["long", "bytes"])
@pytest.mark.parametrize("lost_at", [1, 2, 3])
async def test_a_lost_tokenizer_neither_repeats_nor_drops_text(
    start: Start, lost_at: int, prompt: str
) -> None:
    async with start() as world:
        device, tokenizer = world.device, world.tokenizer
        device.hold()
        stopping = generation_pb2.StoppingParams(max_tokens=TOKENS, stop=["6789x", "nope"])
        logprobs = generation_pb2.LogprobParams(top=0)
        request = generation_pb2.GenerateRequest(text=prompt, stopping=stopping, logprobs=logprobs)
        call = world.stub.Generate(request)
        await call.read()
        device.allow(lost_at)
        tokens = 0
        text = ""
        while tokens < lost_at:
            delta = (await call.read()).delta
            tokens += len(delta.token_ids)
            text += delta.text
        await tokenizer.kill()
        await eventually(lambda: not world.gateway.tokenizers[0].ready)
        device.allow(1)
        await eventually(lambda: device.steps == lost_at + 1)
        await tokenizer.start()
        device.allow(None)
        rest, finished = await read_rest(call)
        assert text + rest == (DIGITS if prompt == "long" else "€é")
        assert finished.usage.completion_tokens == (TOKENS if prompt == "long" else 6)
        assert finished.usage.completion_tokens == len(device.submits[0].resume_ids) + (
            TOKENS if prompt == "long" else 6
        )


async def test_a_stop_text_is_found_across_a_lost_tokenizer(start: Start) -> None:
    async with start() as world:
        device, tokenizer = world.device, world.tokenizer
        device.hold()
        stopping = generation_pb2.StoppingParams(stop=["4567"])
        call = world.stub.Generate(generation_pb2.GenerateRequest(text="long", stopping=stopping))
        await call.read()
        device.allow(6)
        seen = 0
        text = ""
        while seen < 6:
            delta = (await call.read()).delta
            seen += len(delta.token_ids)
            text += delta.text
        assert text == "0123"
        await tokenizer.kill()
        await eventually(lambda: not world.gateway.tokenizers[0].ready)
        await tokenizer.start()
        device.allow(None)
        rest, finished = await read_rest(call)
        assert (text + rest, finished.stop) == ("0123", "4567")
        assert finished.usage.completion_tokens == 8


async def test_a_tokenizer_that_stays_away_fails_the_request(start: Start) -> None:
    async with start(failover_wait_s=0.1) as world:
        world.device.hold()
        call = world.stub.GenerateOnce(long_request())
        await eventually(lambda: world.device.running)
        await world.tokenizer.kill()
        await eventually(lambda: not world.gateway.tokenizers[0].ready)
        world.device.allow(1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "tokenizer" in str(caught.value.details())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await world.stub.GenerateOnce(long_request())
        assert caught.value.details() == "no tokenizer for model fake is reachable"


async def test_a_vocabulary_that_does_not_fit_is_named(start: Start) -> None:
    device = FakeDevice(vocab_size=200)
    async with start(device, ready=False) as world:
        await eventually(lambda: world.gateway.devices[0].refusal)
        await eventually(lambda: world.gateway.tokenizers[0].ready)
        why = "the tokenizer of model fake has 257 tokens and the bmodel of device dev-0 only 200"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await world.stub.GenerateOnce(long_request())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == f"no healthy device serves model fake: {why}"
        async with world.http.get(f"{world.url}/ready") as response:
            assert response.status == 503
            assert why in (await response.json())["reason"]
        assert device.submits == []


async def test_a_model_without_a_tokenizer_is_not_served(start: Start) -> None:
    async with start(tokenizer=FakeTokenizer(model="other"), ready=False) as world:
        await eventually(lambda: world.gateway.devices[0].refusal)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await world.stub.GenerateOnce(long_request())
        assert "no tokenizer serves model fake" in str(caught.value.details())


async def test_before_any_device_has_reported(start: Start) -> None:
    device = FakeDevice()
    async with start(device) as world:
        await device.kill()
        gateway = world.gateway
        await eventually(lambda: not gateway.devices[0].ready)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await world.stub.GenerateOnce(long_request())
        assert caught.value.details() == "no healthy device serves model fake"
