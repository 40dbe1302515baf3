"""The public gRPC API against hand-computable peers."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.unit.gateway.conftest import Start, World
from tests.unit.gateway.fakes import EOS, FakeDevice, FakeTokenizer, eventually
from tpuserve.v1 import chat_pb2, generation_pb2

USER = chat_pb2.ROLE_USER


def chat(text: str = "hi", **fields: Any) -> generation_pb2.ChatRequest:
    message = chat_pb2.Message(role=USER, content=[chat_pb2.ContentPart(text=text)])
    return generation_pb2.ChatRequest(messages=[message], **fields)


def generate(text: str, **fields: Any) -> generation_pb2.GenerateRequest:
    return generation_pb2.GenerateRequest(text=text, **fields)


def stopping(**fields: Any) -> generation_pb2.StoppingParams:
    return generation_pb2.StoppingParams(**fields)


def sampling(**fields: Any) -> generation_pb2.SamplingParams:
    return generation_pb2.SamplingParams(**fields)


async def status(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_a_chat_streams_started_deltas_finished(world: World) -> None:
    chunks = [chunk async for chunk in world.stub.Chat(chat("hi"))]
    started = chunks[0].started
    assert started.model == "fake"
    assert started.prompt_tokens == len("<user>hi<assistant>")
    assert started.cached_tokens == 1
    assert started.device == "dev-0"
    deltas = [chunk.delta for chunk in chunks[1:-1]]
    assert "".join(delta.text for delta in deltas) == "<USER>HI<ASSISTANT>"
    ids = [i for delta in deltas for i in delta.token_ids]
    assert ids == [*b"<USER>HI<ASSISTANT>", EOS]
    finished = chunks[-1].finished
    assert finished.reason == generation_pb2.FINISH_REASON_STOP
    assert finished.usage.completion_tokens == len(ids)
    assert finished.timings.ttft_us > finished.timings.queue_us > 0


async def test_once_gives_the_same_as_a_stream(world: World) -> None:
    reply = await world.stub.GenerateOnce(generate("abc"))
    assert [c.text for c in reply.completions] == ["ABC"]
    assert list(reply.completions[0].token_ids) == [*b"ABC", EOS]
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (3, 4)
    chatted = await world.stub.ChatOnce(chat("x"))
    assert chatted.completions[0].text == "<USER>X<ASSISTANT>"


async def test_token_ids_are_taken_as_they_are(world: World) -> None:
    ids = generation_pb2.TokenIds(ids=list(b"ok"))
    reply = await world.stub.GenerateOnce(generation_pb2.GenerateRequest(token_ids=ids))
    assert reply.completions[0].text == "OK"
    assert world.tokenizer.encodes == 0


async def test_n_completions_have_following_seeds(world: World) -> None:
    request = generate("a", sampling=sampling(temperature=1, seed=40), n=3)
    reply = await world.stub.GenerateOnce(request)
    assert [c.text for c in reply.completions] == ["A40", "A41", "A42"]
    assert reply.seed == 40
    assert reply.usage.prompt_tokens == 1
    assert reply.usage.completion_tokens == 12


async def test_seeds_wrap_around(world: World) -> None:
    request = generate("a", sampling=sampling(temperature=1, seed=2**64 - 1), n=2)
    reply = await world.stub.GenerateOnce(request)
    assert [c.text for c in reply.completions] == [f"A{2**64 - 1}", "A0"]


async def test_a_drawn_seed_is_reported_and_repeats_the_answer(world: World) -> None:
    first = await world.stub.GenerateOnce(generate("a", sampling=sampling(temperature=1)))
    again = await world.stub.GenerateOnce(
        generate("a", sampling=sampling(temperature=1, seed=first.seed))
    )
    assert first.completions[0].text == again.completions[0].text == f"A{first.seed}"


async def test_half_characters_are_held_back(world: World) -> None:
    chunks = [c.delta async for c in world.stub.Generate(generate("bytes")) if c.HasField("delta")]
    assert "".join(delta.text for delta in chunks) == "€é"
    assert "�" not in "".join(delta.text for delta in chunks)


async def test_ids_of_padded_rows_count_and_have_no_text(world: World) -> None:
    chunks = [c async for c in world.stub.Generate(generate("padded"))]
    assert "".join(c.delta.text for c in chunks) == "abc"
    assert chunks[-1].finished.usage.completion_tokens == 5


async def test_a_stop_text_ends_it_and_frees_the_device(world: World) -> None:
    request = generate("long", stopping=stopping(stop=["nope", "456"], max_tokens=200))
    reply = await world.stub.GenerateOnce(request)
    completion = reply.completions[0]
    assert completion.text == "0123"
    assert completion.reason == generation_pb2.FINISH_REASON_STOP_SEQUENCE
    assert completion.stop == "456"
    assert bytes(completion.token_ids) == b"0123456"
    assert reply.usage.completion_tokens == 7
    await eventually(lambda: not world.device.running)
    assert world.device.cancels == [f"{reply.request_id}.0"]


async def test_a_stop_token_has_no_text_and_is_counted(world: World) -> None:
    request = generate("long", stopping=stopping(stop_token_ids=[ord("3")]))
    reply = await world.stub.GenerateOnce(request)
    assert reply.completions[0].text == "012"
    assert reply.completions[0].reason == generation_pb2.FINISH_REASON_STOP_SEQUENCE
    assert reply.usage.completion_tokens == 4


async def test_max_tokens_and_the_rest_of_the_context(world: World) -> None:
    reply = await world.stub.GenerateOnce(generate("long", stopping=stopping(max_tokens=5)))
    assert reply.completions[0].text == "01234"
    assert reply.completions[0].reason == generation_pb2.FINISH_REASON_LENGTH
    reply = await world.stub.GenerateOnce(generate("long"))
    assert reply.usage.completion_tokens == 256 - 4


async def test_ignore_eos_is_told_to_the_device(world: World) -> None:
    await world.stub.GenerateOnce(
        generate("long", stopping=stopping(ignore_eos=True, max_tokens=2, min_tokens=1))
    )
    submit = world.device.submits[-1]
    assert list(submit.stop_ids) == []
    assert submit.min_tokens == 1


async def test_logprobs_carry_token_bytes(world: World) -> None:
    logprobs = generation_pb2.LogprobParams(top=2)
    reply = await world.stub.GenerateOnce(generate("ab", logprobs=logprobs))
    entries = reply.completions[0].logprobs
    assert [entry.token for entry in entries] == [b"A", b"B", b""]
    assert [c.token for c in entries[0].top] == [b"A", b"B"]
    assert [c.logprob for c in entries[0].top] == [-1.0, -2.0]
    assert entries[0].logprob == -0.5


async def test_stop_texts_cut_logprobs_too(world: World) -> None:
    request = generate(
        "long", stopping=stopping(stop=["23"]), logprobs=generation_pb2.LogprobParams(top=0)
    )
    reply = await world.stub.GenerateOnce(request)
    assert [e.token for e in reply.completions[0].logprobs] == [b"0", b"1", b"2", b"3"]


async def test_model_defaults_apply_unless_the_client_speaks(start: Start) -> None:
    tokenizer = FakeTokenizer()
    defaults = tokenizer.info.defaults
    defaults.do_sample = True
    defaults.temperature = 0.5
    defaults.top_k = 20
    defaults.repetition_penalty = 1.25
    async with start(tokenizer=tokenizer) as world:
        await world.stub.GenerateOnce(generate("a"))
        sent = world.device.submits[-1].sampling
        assert (sent.temperature, sent.top_k, sent.top_p) == (0.5, 20, 1.0)
        assert sent.repetition_penalty == 1.25
        await world.stub.GenerateOnce(generate("a", sampling=sampling(top_k=0, temperature=0.25)))
        sent = world.device.submits[-1].sampling
        assert (sent.temperature, sent.top_k) == (0.25, 0)


async def test_do_sample_false_is_greedy_unless_a_temperature_is_given(world: World) -> None:
    await world.stub.GenerateOnce(generate("a"))
    assert world.device.submits[-1].sampling.temperature == 0
    await world.stub.GenerateOnce(generate("a", sampling=sampling(temperature=0.5)))
    assert world.device.submits[-1].sampling.temperature == 0.5


BAD = [
    (chat(sampling=sampling(temperature=-1)), "temperature is -1.0; it must be in [0, 100]"),
    (chat(sampling=sampling(temperature=float("nan"))), "temperature is nan"),
    (chat(sampling=sampling(temperature=float("inf"))), "temperature is inf"),
    (chat(sampling=sampling(top_p=0)), "top_p is 0.0; it must be in (0, 1]"),
    (chat(sampling=sampling(top_p=float("nan"))), "top_p is nan"),
    (chat(sampling=sampling(min_p=1.5)), "min_p is 1.5; it must be in [0, 1]"),
    (chat(sampling=sampling(repetition_penalty=0)), "repetition_penalty is 0.0"),
    (chat(sampling=sampling(presence_penalty=-3)), "presence_penalty is -3.0"),
    (chat(sampling=sampling(frequency_penalty=2.5)), "frequency_penalty is 2.5"),
    (chat(sampling=sampling(logit_bias={5: 101})), "logit_bias[5] is 101.0"),
    (chat(sampling=sampling(logit_bias={9999: 1})), "logit_bias has token id 9999; the vocab"),
    (chat(stopping=stopping(max_tokens=0)), "max_tokens is 0"),
    (chat(stopping=stopping(max_tokens=5, min_tokens=6)), "min_tokens is 6, more than max_tokens"),
    (chat(stopping=stopping(stop=["x"] * 17)), "stop has 17 texts, at most 16"),
    (chat(stopping=stopping(stop=[""])), "stop[0] has 0 bytes"),
    (chat(stopping=stopping(stop=["x" * 257])), "stop[0] has 257 bytes; it must have 1 to 256"),
    (chat(stopping=stopping(stop_token_ids=[9999])), "stop_token_ids has token id 9999"),
    (chat(logprobs=generation_pb2.LogprobParams(top=21)), "logprobs.top is 21"),
    (chat(n=0), "n is 0; it must be in [1, 8]"),
    (chat(n=9), "n is 9; it must be in [1, 8]"),
    (chat(priority=9), "priority is 9"),
    (chat(""), "messages[0] of role user has no content"),
    (chat(stopping=stopping(max_tokens=250)), "max_tokens is 250, beyond the context"),
    (chat("x" * 300), "the prompt has 317 tokens; model fake takes prompts of at most 255"),
    (chat("x" * 70000), "bytes and cannot fit the context of 256 tokens"),
    (generation_pb2.ChatRequest(), "messages is empty"),
    (
        generation_pb2.ChatRequest(messages=[chat_pb2.Message()]),
        "messages[0].role is 0; it must be",
    ),
    (
        generation_pb2.ChatRequest(messages=[chat_pb2.Message.FromString(b"\x08\x4d")]),
        "messages[0].role is 77; it must be",
    ),
    (
        generation_pb2.ChatRequest(
            messages=[
                chat_pb2.Message(
                    role=USER,
                    content=[chat_pb2.ContentPart(text="x")],
                    tool_calls=[chat_pb2.ToolCall(id="1")],
                )
            ]
        ),
        "has tool_calls",
    ),
]


@pytest.mark.parametrize(("request_message", "text"), BAD, ids=[text[:40] for _, text in BAD])
async def test_bad_values_are_named(
    world: World, request_message: generation_pb2.ChatRequest, text: str
) -> None:
    code, details = await status(world.stub.ChatOnce(request_message))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text in details
    assert world.device.submits == []


async def test_a_stream_reports_bad_values_the_same_way(world: World) -> None:
    code, details = await status(world.stub.Chat(chat(n=9)).read())
    assert (code, details) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "n is 9; it must be in [1, 8]",
    )


async def test_empty_prompts_are_refused(world: World) -> None:
    code, details = await status(world.stub.GenerateOnce(generation_pb2.GenerateRequest()))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "the prompt is missing" in details
    code, details = await status(world.stub.GenerateOnce(generate("")))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details == "the prompt is empty"


async def test_token_ids_past_the_vocabulary_are_refused(world: World) -> None:
    ids = generation_pb2.TokenIds(ids=[1, 300])
    code, details = await status(
        world.stub.GenerateOnce(generation_pb2.GenerateRequest(token_ids=ids))
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details == "prompt has token id 300; the vocabulary has 257 tokens"


async def test_unknown_models_are_not_found(world: World) -> None:
    code, details = await status(world.stub.ChatOnce(chat(model="other")))
    assert code is grpc.StatusCode.NOT_FOUND
    assert details == "model 'other' is not served; served: fake"


async def test_images_are_a_missing_feature(world: World) -> None:
    message = chat_pb2.Message(role=USER, content=[chat_pb2.ContentPart(image=b"png")])
    code, _ = await status(world.stub.ChatOnce(generation_pb2.ChatRequest(messages=[message])))
    assert code is grpc.StatusCode.FAILED_PRECONDITION


def raw(world: World, payload: bytes) -> Any:
    method = world.channel.unary_unary(
        "/tpuserve.v1.Generation/ChatOnce",
        request_serializer=lambda data: data,
        response_deserializer=generation_pb2.GenerateReply.FromString,
    )
    return method(payload)


async def test_unknown_fields_are_refused_by_number(world: World) -> None:
    unknown = bytes([0xA2, 0x06, 0x01, 0x78])  # field 100, one byte
    code, details = await status(raw(world, chat("hi").SerializeToString() + unknown))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details == "tpuserve.v1.ChatRequest has unknown field number 100"
    inner = chat_pb2.Message(role=USER).SerializeToString() + unknown
    code, details = await status(raw(world, bytes([0x12, len(inner)]) + inner))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details == "messages[0] has unknown field number 100"


async def test_invalid_utf8_is_refused(world: World) -> None:
    code, details = await status(raw(world, b"\x0a\x02\xff\xfe"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "UTF-8" in details


async def test_argmax_heads_refuse_what_needs_logits(start: Start) -> None:
    async with start(FakeDevice(features=("argmax-head",))) as world:
        assert (await world.stub.GenerateOnce(generate("a"))).completions[0].text == "A"
        for request in (
            generate("a", sampling=sampling(temperature=0.5)),
            generate("a", sampling=sampling(logit_bias={1: 1})),
            generate("a", logprobs=generation_pb2.LogprobParams()),
        ):
            code, details = await status(world.stub.GenerateOnce(request))
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert "needs logits" in details


async def test_a_cancelled_stream_reaches_the_device(world: World) -> None:
    world.device.hold()
    call = world.stub.Generate(generate("long"))
    started = (await call.read()).started
    world.device.allow(2)
    assert (await call.read()).delta.text
    call.cancel()
    await eventually(lambda: world.device.cancels == [f"{started.request_id}.0"])
    await eventually(lambda: world.tokenizer.open_requests == 0)


async def test_a_cancelled_unary_call_reaches_the_device(world: World) -> None:
    world.device.hold()
    call = world.stub.GenerateOnce(generate("long", n=2))
    await eventually(lambda: len(world.device.running) == 2)
    call.cancel()
    await eventually(lambda: len(world.device.cancels) == 2)
    assert not world.device.running


async def test_the_deadline_holds_while_running(world: World) -> None:
    world.device.hold()
    code, _ = await status(world.stub.GenerateOnce(generate("long"), timeout=0.3))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0 < world.device.submits[0].deadline_ms <= 300
    await eventually(lambda: len(world.device.cancels) == 1)
    await eventually(lambda: world.gateway.metrics.failures["DEADLINE_EXCEEDED", False] == 1)


async def test_the_deadline_holds_in_the_queue(start: Start) -> None:
    async with start(FakeDevice(slots=1)) as world:
        world.device.hold()
        calls = [world.stub.GenerateOnce(generate("long")) for _ in range(3)]
        await eventually(lambda: len(world.device.submits) == 3)
        code, _ = await status(world.stub.GenerateOnce(generate("long"), timeout=0.2))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert len(world.device.submits) == 3
        for call in calls:
            call.cancel()


async def test_tokenize_and_detokenize(world: World) -> None:
    reply = await world.stub.Tokenize(generation_pb2.TokenizeRequest(text="hé"))
    assert bytes(reply.ids) == "hé".encode()
    assert list(reply.tokens) == [b"h", b"\xc3", b"\xa9"]
    assert reply.context_length == 256
    conversation = generation_pb2.Conversation(messages=chat("hi").messages)
    reply = await world.stub.Tokenize(generation_pb2.TokenizeRequest(chat=conversation))
    assert bytes(reply.ids) == b"<user>hi<assistant>"
    text = await world.stub.Detokenize(generation_pb2.DetokenizeRequest(ids=list(b"ok")))
    assert text.text == "ok"
    code, details = await status(world.stub.Detokenize(generation_pb2.DetokenizeRequest(ids=[257])))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "257" in details


async def test_models_are_listed(world: World) -> None:
    reply = await world.stub.ListModels(generation_pb2.ListModelsRequest())
    assert [m.name for m in reply.models] == ["fake"]
    model = await world.stub.GetModel(generation_pb2.GetModelRequest(name="fake"))
    assert (model.context_length, model.devices, model.healthy_devices) == (256, 1, 1)
    assert model.created_s > 0
    code, _ = await status(world.stub.GetModel(generation_pb2.GetModelRequest(name="none")))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_32_at_once_answer_as_one_after_another(world: World) -> None:
    requests = [
        generate(f"request {i}", sampling=sampling(temperature=1, seed=i)) for i in range(32)
    ]
    serial = [(await world.stub.GenerateOnce(r)).completions[0].text for r in requests]
    together = await asyncio.gather(*(world.stub.GenerateOnce(r) for r in requests))
    assert [reply.completions[0].text for reply in together] == serial
    assert serial[7] == "REQUEST 77"
