"""Output formats from end to end: the device on the emulator, and all services with the SDK."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import grpc
import jsonschema
import openai
import pydantic
import pytest

from tests.support.device_client import SessionClient, device_session
from tests.support.service_process import ROOT, service_process
from tests.support.supervised import MODEL, Up, up
from tokenizer_svc.loading import load
from tokenizer_svc.vocabulary import vocabulary_of
from tpuserve import model_dir
from tpuserve.client import (
    Client,
    Delta,
    Finished,
    FinishReason,
    FormatKind,
    Message,
    Options,
    OutputFormat,
)
from tpuserve.rpc.vocabulary import to_wire
from tpuserve.v1 import device_pb2, generation_pb2, output_pb2

BATCH4 = ROOT / "tests" / "fixtures" / "models" / "batch4"
ARGMAX = ROOT / "tests" / "fixtures" / "models" / "argmax"
SAMPLED = generation_pb2.SamplingParams(temperature=1.1, top_p=0.95, seed=2026)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "on": {"type": "boolean"},
        "n": {"type": "integer", "minimum": 10, "maximum": 64},
    },
    "required": ["on", "n"],
    "additionalProperties": False,
}
FORMATS = {
    "schema": output_pb2.OutputFormat(json_schema=json.dumps(SCHEMA)),
    "regex": output_pb2.OutputFormat(regex=r"\d{3}-[a-f]{2,4}"),
    "choice": output_pb2.OutputFormat(choice=output_pb2.OutputFormat.Choice(texts=["one", "two"])),
}
MAX_TOKENS = 40


@functools.cache
def vocabulary() -> output_pb2.Vocabulary:
    return to_wire(vocabulary_of(load(MODEL / "config", max_characters=1000)))


def text_of(ids: list[int]) -> str:
    tokenizer = load(MODEL / "config", max_characters=1000).tokenizer
    return tokenizer.decode(ids, keep_special_tokens=False)


@dataclass(frozen=True)
class Device:
    address: str
    sha256: str


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    log = tmp_path_factory.mktemp("formats") / "log"
    given = ("--model", str(BATCH4), "--runtime", "emulator", "--listen", "127.0.0.1:0")
    with service_process("device_svc", *given, "--deterministic", stderr=log) as process:
        sha256 = model_dir.bmodel_sha256(model_dir.load(BATCH4))
        yield Device(process.wait_for("ready")["address"], sha256)


def prompt(number: int) -> list[int]:
    return [(number * 131 + index * index * 7 + index) % 1000 + 3 for index in range(9 + number)]


def fields(name: str, **more: Any) -> dict[str, Any]:
    stop_ids = vocabulary().eos_ids
    free = name == "free"
    return {
        "sampling": SAMPLED,
        "logprobs": 0,
        # A free text of this model may end at once.
        "stop_ids": [] if free else stop_ids,
        "output_format": None if free else FORMATS[name],
        **more,
    }


async def put_vocabulary(session: SessionClient) -> None:
    await session.stub.PutVocabulary(device_pb2.PutVocabularyRequest(vocabulary=vocabulary()))
    info = await session.stub.GetInfo(device_pb2.GetDeviceInfoRequest())
    assert info.vocabulary_sha256 == vocabulary().sha256


def drawn(session: SessionClient, key: str) -> tuple[list[int], list[float], str]:
    logprobs = [item.logprob for emission in session.emissions(key) for item in emission.logprobs]
    return session.ids(key), logprobs, session.finish(key)


async def alone(device: Device, name: str, number: int) -> tuple[list[int], list[float], str]:
    async with device_session(device.address, device.sha256) as session:
        await session.submit("solo", prompt(number), MAX_TOKENS, **fields(name))
        await session.result("solo")
        return drawn(session, "solo")


async def test_a_format_needs_a_vocabulary_that_fits(device: Device) -> None:
    async with device_session(device.address, device.sha256) as session:
        await session.submit("early", prompt(0), 5, **fields("regex"))
        assert await session.rejection("early") == (
            "UNSUPPORTED",
            "output_format needs a vocabulary: none is put",
        )
        wrong = output_pb2.Vocabulary(sha256="ab", token_bytes=b"x", lengths=[1])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await session.stub.PutVocabulary(device_pb2.PutVocabularyRequest(vocabulary=wrong))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await put_vocabulary(session)
        bad = output_pb2.OutputFormat(grammar="start: <|nobody|>")
        await session.submit("bad", prompt(0), 5, **fields("regex", output_format=bad))
        code, detail = await session.rejection("bad")
        assert code == "INVALID"
        assert "unknown special token" in detail
        assert (await session.until_idle()).free_slots == 4


async def test_formats_and_free_texts_share_a_batch_and_change_nothing(device: Device) -> None:
    async with device_session(device.address, device.sha256) as session:
        await put_vocabulary(session)
    names = ["schema", "free", "regex", "choice"]
    expected = {name: await alone(device, name, number) for number, name in enumerate(names)}
    async with device_session(device.address, device.sha256) as session:
        for number, name in enumerate(names):
            await session.submit(name, prompt(number), MAX_TOKENS, **fields(name))
        for name in names:
            await session.result(name)
            assert drawn(session, name) == expected[name]
    texts = {name: text_of(ids) for name, (ids, _, _) in expected.items()}
    assert {name: finish for name, (_, _, finish) in expected.items()} == {
        **dict.fromkeys(FORMATS, "STOP"),
        "free": "LENGTH",
    }
    jsonschema.validate(json.loads(texts["schema"]), SCHEMA)
    assert re.fullmatch(r"[0-9]{3}-[a-f]{2,4}", texts["regex"])
    assert texts["choice"] in ("one", "two")


async def test_a_format_broken_off_at_every_token_goes_on_as_if_nothing_had_happened(
    device: Device,
) -> None:
    async with device_session(device.address, device.sha256) as session:
        await put_vocabulary(session)
        whole = await alone(device, "schema", 0)
        ids, logprobs, finish = whole
        for delivered in range(1, len(ids)):
            await session.submit(
                f"r{delivered}",
                prompt(0),
                MAX_TOKENS,
                **fields("schema", resume_ids=ids[:delivered]),
            )
        for delivered in range(1, len(ids)):
            await session.result(f"r{delivered}")
            assert drawn(session, f"r{delivered}") == (
                ids[delivered:],
                logprobs[delivered:],
                finish,
            )
        other = ids[:3] + ids[:1]
        await session.submit("wrong", prompt(0), 9, **fields("schema", resume_ids=other))
        code, detail = await session.rejection("wrong")
        assert (code, f"resume_ids[3] is {ids[0]}, which" in detail) == ("INVALID", True)


async def test_a_preempted_format_goes_on(device: Device) -> None:
    expected = await alone(device, "schema", 0)
    async with device_session(device.address, device.sha256) as session:
        low = generation_pb2.PRIORITY_BULK
        await session.submit("low", prompt(0), MAX_TOKENS, **fields("schema", priority=low))
        while len(session.ids("low")) < 3:
            await session.read()
        high = generation_pb2.PRIORITY_SYSTEM
        for number in range(4):
            await session.submit(f"h{number}", prompt(number), 4, **fields("free", priority=high))
        await session.result("low")
        assert drawn(session, "low") == expected


async def test_a_head_without_logits_says_so(tmp_path: Any) -> None:
    given = ("--model", str(ARGMAX), "--runtime", "emulator", "--listen", "127.0.0.1:0")
    with service_process("device_svc", *given, stderr=tmp_path / "log") as process:
        sha256 = model_dir.bmodel_sha256(model_dir.load(ARGMAX))
        async with device_session(process.wait_for("ready")["address"], sha256) as session:
            await session.submit("a", prompt(0), 5, output_format=FORMATS["regex"])
            code, detail = await session.rejection("a")
            assert code == "UNSUPPORTED"
            assert "output_format needs logits" in detail


# All services, as a user runs them


class Part(pydantic.BaseModel, extra="forbid"):
    name: Literal["core", "bus"]
    count: int = pydantic.Field(ge=0, le=99)


class Chip(pydantic.BaseModel, extra="forbid"):
    name: str = pydantic.Field(max_length=8)
    fast: bool
    parts: list[Part] = pydantic.Field(min_length=1, max_length=2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("up"), "--model", str(MODEL), "--slots", "4") as running:
        running.wait_for(r"gRPC   (\S+)")
        yield running


@pytest.fixture
def sdk(server: Up) -> Iterator[openai.OpenAI]:
    url = server.wait_for(r"HTTP   (\S+)").group(1)
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


QUESTION: Any = [{"role": "user", "content": "What is a BM1684X?"}]
CHAT: dict[str, Any] = {"model": "tpuserve-demo", "messages": QUESTION, "max_tokens": 200}


def test_the_sdk_parses_what_the_model_says(sdk: openai.OpenAI) -> None:
    for seed in range(3):
        reply = sdk.chat.completions.parse(
            **CHAT, response_format=Chip, temperature=0.1 + seed, seed=seed
        )
        assert reply.choices[0].finish_reason == "stop"
        assert isinstance(reply.choices[0].message.parsed, Chip)


def test_a_schema_holds_in_a_stream_of_several_completions(sdk: openai.OpenAI) -> None:
    texts = ["", "", ""]
    schema = {"name": "chip", "strict": True, "schema": SCHEMA}
    request: dict[str, Any] = {
        **CHAT,
        "response_format": {"type": "json_schema", "json_schema": schema},
        "stream": True,
    }
    stream: Any = sdk.chat.completions.create(**request, n=3, temperature=1.5, seed=1)
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)
    assert len(set(texts)) == 3


def test_any_json_object(sdk: openai.OpenAI) -> None:
    reply = sdk.chat.completions.create(**CHAT, response_format={"type": "json_object"})
    choice = reply.choices[0]
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content or ""), dict)
    else:
        assert (choice.message.content or "").lstrip().startswith("{")


def test_the_extras_of_vllm(sdk: openai.OpenAI) -> None:
    for body, pattern in (
        ({"structured_outputs": {"regex": r"\d{2,3} [ab]+c"}}, r"[0-9]{2,3} [ab]+c"),
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"guided_grammar": 'root ::= "(" [0-9] ")" | "none"'}, r"\([0-9]\)|none"),
    ):
        reply = sdk.completions.create(
            model="", prompt="Say it", max_tokens=60, temperature=1.0, seed=4, extra_body=body
        )
        assert reply.choices[0].finish_reason == "stop"
        assert re.fullmatch(pattern, reply.choices[0].text), reply.choices[0].text


def test_a_bad_schema_is_the_clients_mistake(sdk: openai.OpenAI) -> None:
    schema = {"name": "x", "schema": {"type": "objekt"}}
    request: dict[str, Any] = {
        **CHAT,
        "response_format": {"type": "json_schema", "json_schema": schema},
    }
    with pytest.raises(openai.BadRequestError, match="Invalid type: objekt"):
        sdk.chat.completions.create(**request)


def test_a_killed_device_does_not_show_in_the_answer(server: Up) -> None:
    options = Options(
        max_tokens=200,
        temperature=1.2,
        seed=11,
        output_format=OutputFormat(FormatKind.JSON_SCHEMA, json.dumps(Chip.model_json_schema())),
    )
    answers = []
    with Client(server.wait_for(r"gRPC   (\S+)").group(1)) as client:
        for kill_after in (None, 5):
            text, tokens, killed = "", 0, False
            for chunk in client.chat([Message("user", "What is a BM1684X?")], options):
                if isinstance(chunk, Delta):
                    text += chunk.text
                    tokens += len(chunk.token_ids)
                    if kill_after is not None and tokens >= kill_after and not killed:
                        server.child("device_svc").kill()
                        killed = True
                elif isinstance(chunk, Finished):
                    assert chunk.reason is FinishReason.STOP
            assert killed == (kill_after is not None)
            assert tokens > 5
            answers.append(text)
    assert answers[0] == answers[1]
    Chip.model_validate_json(answers[0])
