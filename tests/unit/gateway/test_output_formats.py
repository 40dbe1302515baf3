"""Output formats on their way through the gateway: checked, spelled out to the device, kept."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.unit.gateway.conftest import Start, World
from tests.unit.gateway.fakes import FakeDevice, eventually
from tpuserve.v1 import chat_pb2, device_pb2, generation_pb2, output_pb2

SHA256 = "cd" * 32
REGEX = output_pb2.OutputFormat(regex="[A-Z]+")
NOTHING = output_pb2.OutputFormat.Choice(texts=[""])
SCHEMA = {"type": "object", "properties": {"z": {"type": "null"}, "a": {"const": "ü"}}}
HI = {"messages": [{"role": "user", "content": "hi"}]}


def request(
    output_format: output_pb2.OutputFormat | None = REGEX, **fields: Any
) -> generation_pb2.GenerateRequest:
    return generation_pb2.GenerateRequest(text="abc", output_format=output_format, **fields)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def post(world: World, path: str, body: Any) -> tuple[int, Any]:
    async with world.http.post(world.url + path, json=body) as response:
        return response.status, await response.json()


async def test_the_vocabulary_is_put_once_before_the_first_request_that_needs_it(
    world: World,
) -> None:
    await world.stub.GenerateOnce(request(None))
    assert world.device.vocabularies == []
    replies = await asyncio.gather(*(world.stub.GenerateOnce(request()) for _ in range(5)))
    assert [reply.completions[0].text for reply in replies] == ["ABC"] * 5
    await world.stub.GenerateOnce(request())
    [vocabulary] = world.device.vocabularies
    assert (vocabulary.sha256, len(vocabulary.lengths)) == (SHA256, 257)
    assert world.tokenizer.vocabularies_asked == 1
    assert [s.HasField("output_format") for s in world.device.submits] == [False, *[True] * 6]
    assert world.device.submits[1].output_format == REGEX


async def test_a_device_that_has_the_vocabulary_is_not_given_it(start: Start) -> None:
    device = FakeDevice()
    device.info.vocabulary_sha256 = SHA256
    async with start(device) as world:
        await world.stub.GenerateOnce(request())
        assert device.vocabularies == []


async def test_the_end_of_a_format_needs_no_stop_id(world: World) -> None:
    reply = await world.stub.GenerateOnce(request())
    [completion] = reply.completions
    assert (completion.text, list(completion.token_ids)) == ("ABC", [*b"ABC"])
    assert completion.reason == generation_pb2.FINISH_REASON_STOP
    assert reply.usage.completion_tokens == 3


async def test_another_device_gets_vocabulary_and_format_with_the_resumed_request(
    start: Start,
) -> None:
    devices = [FakeDevice(name=f"dev-{i}") for i in range(2)]
    async with start(*devices) as world:
        for device in devices:
            device.hold()
        chunks = aiter(world.stub.Generate(request(REGEX)))
        await anext(chunks)
        first = next(d for d in devices if d.running)
        other = next(d for d in devices if d is not first)
        first.allow(1)
        while not (await anext(chunks)).delta.text:
            pass
        other.allow(None)
        await first.kill()
        rest = "".join([chunk.delta.text async for chunk in chunks])
        assert rest == "BC"
        assert len(other.vocabularies) == 1
        assert other.submits[0].output_format == REGEX
        assert bytes(other.submits[0].resume_ids) == b"A"


async def test_a_restarted_device_is_given_the_vocabulary_again(start: Start) -> None:
    device = FakeDevice()
    async with start(device) as world:
        await world.stub.GenerateOnce(request())
        await device.kill()
        await eventually(lambda: not world.gateway.devices[0].ready)
        device.info.vocabulary_sha256 = ""
        await device.start()
        await eventually(lambda: world.gateway.devices[0].ready)
        await world.stub.GenerateOnce(request())
        assert len(device.vocabularies) == 2


class Refusing(FakeDevice):
    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__()
        self.code = code

    async def PutVocabulary(
        self, request: device_pb2.PutVocabularyRequest, context: Any
    ) -> device_pb2.PutVocabularyReply:
        await context.abort(self.code, "as the test said")
        raise AssertionError


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.FAILED_PRECONDITION),
        (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_device_that_takes_no_vocabulary_fails_the_request_alone(
    start: Start, code: grpc.StatusCode, expected: grpc.StatusCode
) -> None:
    async with start(Refusing(code)) as world:
        assert (await refusal(world.stub.GenerateOnce(request())))[0] is expected
        reply = await world.stub.GenerateOnce(request(None))
        assert reply.completions[0].text == "ABC"


async def test_a_device_that_fails_to_take_the_vocabulary_is_one_that_was_lost(
    start: Start,
) -> None:
    refusing, other = Refusing(grpc.StatusCode.UNAVAILABLE), FakeDevice(name="dev-1")
    async with start(refusing, other) as world:
        replies = [await world.stub.GenerateOnce(request()) for _ in range(3)]
        assert [reply.completions[0].text for reply in replies] == ["ABC"] * 3
        assert {reply.device for reply in replies} == {"dev-1"}


class Slow(FakeDevice):
    """Takes the vocabulary when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.release = asyncio.Event()

    async def PutVocabulary(
        self, request: device_pb2.PutVocabularyRequest, context: Any
    ) -> device_pb2.PutVocabularyReply:
        self.asked.set()
        await self.release.wait()
        return await super().PutVocabulary(request, context)


async def test_others_do_not_wait_for_a_vocabulary_and_a_cancelled_request_is_not_sent(
    start: Start,
) -> None:
    device = Slow()
    async with start(device) as world:
        waiting, cancelled = (
            asyncio.ensure_future(world.stub.GenerateOnce(request())) for _ in range(2)
        )
        await device.asked.wait()
        await world.stub.GenerateOnce(request(None))
        await eventually(lambda: len(list(world.gateway.devices[0].sequences)) == 2)
        cancelled.cancel()
        await eventually(lambda: len(list(world.gateway.devices[0].sequences)) == 1)
        device.release.set()
        assert (await waiting).completions[0].text == "ABC"
        assert [s.HasField("output_format") for s in device.submits] == [False, True]


@pytest.mark.parametrize(
    ("output_format", "said"),
    [
        (output_pb2.OutputFormat(), "output_format is empty"),
        (output_pb2.OutputFormat(regex="(a"), "regex: .*unclosed group"),
        (output_pb2.OutputFormat(json_schema='{"type": 1}'), "json_schema: "),
        (output_pb2.OutputFormat(grammar="start: x"), "grammar: .*unknown name"),
        (output_pb2.OutputFormat(choice=NOTHING), "choice has 0 bytes"),
    ],
)
async def test_a_bad_format_is_refused_before_it_is_queued(
    world: World, output_format: output_pb2.OutputFormat, said: str
) -> None:
    for _ in range(2):
        code, detail = await refusal(world.stub.GenerateOnce(request(output_format)))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert pytest.raises(AssertionError, match=said).matches(AssertionError(detail)), detail
    assert world.device.submits == []


async def test_a_head_without_logits_takes_no_format(start: Start) -> None:
    async with start(FakeDevice(features=("argmax-head",))) as world:
        code, detail = await refusal(world.stub.GenerateOnce(request()))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "output_format needs logits" in detail


async def test_what_a_conversation_demands_is_the_format(world: World) -> None:
    message = chat_pb2.Message(role=chat_pb2.ROLE_USER, content=[chat_pb2.ContentPart(text="hi")])
    plain = generation_pb2.ChatRequest(messages=[message])
    world.tokenizer.demanded = output_pb2.OutputFormat(grammar='start: "a"')
    await world.stub.ChatOnce(plain)
    assert world.device.submits[0].output_format == world.tokenizer.demanded
    both = generation_pb2.ChatRequest(messages=[message], output_format=REGEX)
    code, detail = await refusal(world.stub.ChatOnce(both))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "exclude each other" in detail


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, {"json_object": True}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "strict": True, "schema": SCHEMA},
                }
            },
            {"json_schema": SCHEMA},
        ),
        ({"structured_outputs": {"json": SCHEMA}}, {"json_schema": SCHEMA}),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, {"json_schema": SCHEMA}),
        ({"structured_outputs": {"json_object": True}}, {"json_object": True}),
        ({"structured_outputs": {"regex": "a+"}}, {"regex": "a+"}),
        ({"structured_outputs": {"choice": ["a", "b"]}}, {"choice": {"texts": ["a", "b"]}}),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, {"grammar": 'root ::= "a"'}),
        ({"guided_json": SCHEMA}, {"json_schema": SCHEMA}),
        ({"guided_regex": "a+"}, {"regex": "a+"}),
        ({"guided_choice": ["a", "b"]}, {"choice": {"texts": ["a", "b"]}}),
        ({"guided_grammar": 'start: "a"'}, {"grammar": 'start: "a"'}),
    ],
)
async def test_every_way_to_say_it_over_http(
    world: World, fields: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    for path, body in (("/v1/chat/completions", HI), ("/v1/completions", {"prompt": "hi"})):
        status, reply = await post(world, path, {**body, **fields})
        assert status == 200, reply
        submit = world.device.submits[-1]
        if expected is None:
            assert not submit.HasField("output_format")
        elif "json_schema" in expected:
            # In the order of the client, which is the order of the answer.
            said = json.loads(submit.output_format.json_schema)
            assert list(said["properties"]) == ["z", "a"]
            assert said == expected["json_schema"]
        else:
            assert submit.output_format == output_pb2.OutputFormat(**expected)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"response_format": {"type": "xml"}}, "response_format of type xml is not supported"),
        ({"response_format": {"type": "json_schema"}}, "has no json_schema.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            "has no json_schema.schema",
        ),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_regex and guided_choice are given"),
        (
            {"structured_outputs": {"regex": "a", "json_object": True}},
            "structured_outputs.json_object and structured_outputs.regex are given",
        ),
        ({"guided_json": "{"}, "json_schema is not JSON"),
        ({"structured_outputs": {"ebnf": "x"}}, "ebnf"),
    ],
)
async def test_what_cannot_be_is_refused_over_http(
    world: World, fields: dict[str, Any], said: str
) -> None:
    status, reply = await post(world, "/v1/chat/completions", {**HI, **fields})
    assert status == 400
    assert said in reply["error"]["message"]


async def test_formats_are_counted(world: World) -> None:
    await world.stub.GenerateOnce(request())
    async with world.http.get(f"{world.url}/metrics") as response:
        page = await response.text()
    assert 'tpuserve_formatted_prompts_total{kind="regex",model="fake"} 1.0' in page
    assert 'tpuserve_formatted_prompts_total{kind="choice",model="fake"} 0.0' in page
