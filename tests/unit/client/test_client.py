"""Both clients against a real gRPC server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.support import fake_gateway
from tests.support.fake_gateway import FakeGateway
from tpuserve import errors
from tpuserve.client import (
    AsyncClient,
    Client,
    Delta,
    Finished,
    FinishReason,
    FormatKind,
    Message,
    NamedFunction,
    Options,
    OutputFormat,
    Priority,
    Started,
    Tool,
    ToolCall,
    ToolMode,
)
from tpuserve.v1 import chat_pb2, generation_pb2, output_pb2

STATUSES = [
    ("INVALID_ARGUMENT", errors.InvalidArgument),
    ("NOT_FOUND", errors.UnknownModel),
    ("FAILED_PRECONDITION", errors.FeatureMissing),
    ("UNAUTHENTICATED", errors.Unauthenticated),
    ("PERMISSION_DENIED", errors.PermissionDenied),
    ("RESOURCE_EXHAUSTED", errors.Overloaded),
    ("DEADLINE_EXCEEDED", errors.DeadlineExceeded),
    ("UNAVAILABLE", errors.Unavailable),
    ("INTERNAL", errors.InternalError),
    ("DATA_LOSS", errors.InternalError),
]


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with fake_gateway.serving() as running:
        yield running


@pytest.fixture
def client(gateway: FakeGateway) -> Iterator[Client]:
    with Client(gateway.address) as connected:
        yield connected


@pytest.fixture
async def async_client(gateway: FakeGateway) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(gateway.address) as connected:
        yield connected


def ask(text: str) -> list[Message]:
    return [Message("user", text)]


def test_streams_a_chat(client: Client) -> None:
    started, *deltas, finished = client.chat(ask("words 3"))
    assert started == Started("r1", "fake", 7, 0, 3, "d0")
    assert deltas == [Delta(0, f"w{n} ", (n,), ()) for n in range(3)]
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.stop) == (FinishReason.LENGTH, None)
    assert (finished.usage.prompt_tokens, finished.usage.completion_tokens) == (7, 3)
    assert finished.timings.ttft_us == 1500
    assert "".join(chunk.text for chunk in (started, *deltas, finished)) == "w0 w1 w2 "


def test_sends_every_option(client: Client, gateway: FakeGateway) -> None:
    options = Options(
        model="m",
        temperature=0.5,
        top_k=0,
        top_p=0.25,
        min_p=0.125,
        repetition_penalty=2.0,
        presence_penalty=-1.0,
        frequency_penalty=1.5,
        penalty_window_tokens=64,
        logit_bias={5: -100.0},
        seed=2**64 - 1,
        max_tokens=10,
        min_tokens=2,
        stop=("a", "b"),
        stop_token_ids=(1, 2),
        ignore_eos=True,
        logprobs=0,
        n=2,
        priority=Priority.BULK,
        prefix_key="k",
        output_format=OutputFormat(FormatKind.CHOICE, choices=("a", "b")),
    )
    chat_options = replace(
        options,
        tools=[Tool("f", "d", {"type": "object"}), Tool("g")],
        tool_choice=NamedFunction("f"),
        parallel_tool_calls=False,
        thinking=True,
    )
    messages = [Message("system", "s"), Message("assistant", "a"), Message("user", "words 1")]
    list(client.chat(messages, chat_options))
    sampling = generation_pb2.SamplingParams(
        temperature=0.5,
        top_k=0,
        top_p=0.25,
        min_p=0.125,
        repetition_penalty=2.0,
        presence_penalty=-1.0,
        frequency_penalty=1.5,
        penalty_window_tokens=64,
        logit_bias={5: -100.0},
        seed=2**64 - 1,
    )
    stopping = generation_pb2.StoppingParams(
        max_tokens=10, min_tokens=2, stop=["a", "b"], stop_token_ids=[1, 2], ignore_eos=True
    )
    common: dict[str, Any] = {
        "model": "m",
        "sampling": sampling,
        "stopping": stopping,
        "logprobs": generation_pb2.LogprobParams(top=0),
        "n": 2,
        "priority": generation_pb2.PRIORITY_BULK,
        "prefix_key": "k",
        "output_format": output_pb2.OutputFormat(
            choice=output_pb2.OutputFormat.Choice(texts=["a", "b"])
        ),
    }
    roles = (chat_pb2.ROLE_SYSTEM, chat_pb2.ROLE_ASSISTANT, chat_pb2.ROLE_USER)
    sent = [
        chat_pb2.Message(role=role, content=[chat_pb2.ContentPart(text=message.text)])
        for role, message in zip(roles, messages, strict=True)
    ]
    assert gateway.chats == [
        generation_pb2.ChatRequest(
            messages=sent,
            tools=[
                chat_pb2.Tool(name="f", description="d", parameters_json='{"type": "object"}'),
                chat_pb2.Tool(name="g"),
            ],
            tool_choice=chat_pb2.ToolChoice(function="f"),
            parallel_tool_calls=False,
            thinking=True,
            **common,
        )
    ]
    list(client.generate([4, 5], options))
    ids = generation_pb2.TokenIds(ids=[4, 5])
    assert gateway.generates == [generation_pb2.GenerateRequest(token_ids=ids, **common)]


def test_sends_nothing_that_was_not_set(client: Client, gateway: FakeGateway) -> None:
    list(client.generate("words 1"))
    assert gateway.generates == [
        generation_pb2.GenerateRequest(
            text="words 1",
            sampling=generation_pb2.SamplingParams(),
            stopping=generation_pb2.StoppingParams(),
        )
    ]
    list(client.generate([]))
    assert gateway.generates[1].WhichOneof("prompt") == "token_ids"


def test_whole_replies(client: Client) -> None:
    for reply in (client.chat_once(ask("words 2")), client.generate_once("words 2")):
        assert reply.text == "w0 w1 "
        assert reply.completions[0].reason is FinishReason.STOP_SEQUENCE
        assert reply.completions[0].stop == "END"
        assert (reply.seed, reply.usage.completion_tokens) == (9, 2)


def test_calls_and_reasoning(client: Client, gateway: FakeGateway) -> None:
    reply = client.chat_once(ask("call f"))
    (completion,) = reply.completions
    assert completion.reason is FinishReason.TOOL_CALLS
    assert completion.reasoning == "Hm."
    assert reply.tool_calls == (ToolCall("call_0", "f", '{"x": 1}'),)
    deltas = [chunk for chunk in client.chat(ask("call f")) if isinstance(chunk, Delta)]
    pieces = [piece for delta in deltas for piece in delta.tool_calls]
    assert (pieces[0].index, pieces[0].id, pieces[0].name) == (0, "call_0", "f")
    assert "".join(piece.arguments_json for piece in pieces) == '{"x": 1}'
    assert deltas[0].reasoning == "Hm."
    result = Message("tool", "words 1", tool_call_id="call_0")
    options = Options(tool_choice=ToolMode.REQUIRED)
    client.chat_once([*ask("call f"), completion.as_message(), result], options)
    _, made, answered = gateway.chats[-1].messages
    assert (made.reasoning, made.tool_calls[0].name, list(made.content)) == ("Hm.", "f", [])
    assert answered.tool_call_id == "call_0"
    assert gateway.chats[-1].tool_choice.mode == chat_pb2.ToolChoice.MODE_REQUIRED


def test_tokens_and_models(client: Client) -> None:
    for source in ("hé", [Message("user", "hé")]):
        found = client.tokenize(source)
        assert found.ids == (0x68, 0xC3, 0xA9)
        assert found.tokens == (b"h", b"\xc3", b"\xa9")
        assert found.context_length == 512
    assert client.detokenize([0x68, 0xC3, 0xA9]) == "hé"
    assert [(model.name, model.features) for model in client.models()] == [("fake", ("history",))]


@pytest.mark.parametrize(("status", "kind"), STATUSES)
async def test_statuses_become_typed_errors(
    status: str, kind: type[errors.TpuserveError], gateway: FakeGateway
) -> None:
    with Client(gateway.address) as client:
        calls = (lambda: list(client.chat(ask(status))), lambda: client.chat_once(ask(status)))
        for call in calls:
            with pytest.raises(kind, match=f"this is {status}"):
                await asyncio.to_thread(call)
    async with AsyncClient(gateway.address) as async_client:
        with pytest.raises(kind, match=f"this is {status}"):
            await async_client.chat_once(ask(status))
        with pytest.raises(kind, match=f"this is {status}") as caught:
            async for _ in async_client.chat(ask(status)):
                pass
    if isinstance(caught.value, errors.Overloaded):
        assert caught.value.retry_after_s == 2.5


def test_values_that_do_not_fit_are_refused_here(client: Client) -> None:
    for options in (Options(top_k=-1), Options(seed=2**64), Options(max_tokens=2**32)):
        with pytest.raises(errors.InvalidArgument, match="cannot be sent"):
            client.chat(ask("words 1"), options)
    with pytest.raises(errors.InvalidArgument, match="role is 'robot', must be one of system"):
        client.chat([Message("robot", "x")])  # type: ignore[arg-type]


def test_leaving_a_loop_cancels(client: Client, gateway: FakeGateway) -> None:
    for chunk in client.chat(ask("hang")):
        if isinstance(chunk, Delta):
            break
    assert gateway.cancelled.wait(10)


def test_closing_a_stream_cancels(client: Client, gateway: FakeGateway) -> None:
    stream = client.chat(ask("hang"))
    with contextlib.closing(stream):
        assert isinstance(next(stream), Started)
    assert gateway.cancelled.wait(10)


def test_the_deadline_holds(client: Client) -> None:
    with pytest.raises(errors.DeadlineExceeded):
        list(client.chat(ask("hang"), Options(timeout_s=0.2)))


async def test_async_stream(async_client: AsyncClient) -> None:
    chunks = [chunk async for chunk in async_client.generate("words 2")]
    assert [type(chunk) for chunk in chunks] == [Started, Delta, Delta, Finished]
    assert (await async_client.tokenize("a")).ids == (97,)
    assert await async_client.detokenize([97]) == "a"
    assert [model.name for model in await async_client.models()] == ["fake"]
    assert (await async_client.generate_once("words 1")).text == "w0 "


async def test_closing_an_async_stream_cancels(
    async_client: AsyncClient, gateway: FakeGateway
) -> None:
    async with contextlib.aclosing(async_client.chat(ask("hang"))) as stream:
        assert isinstance(await anext(stream), Started)
    assert await asyncio.to_thread(gateway.cancelled.wait, 10)


async def test_cancelling_the_reading_task_cancels(
    async_client: AsyncClient, gateway: FakeGateway
) -> None:
    reached = asyncio.Event()

    async def read() -> None:
        async for chunk in async_client.chat(ask("hang")):
            if isinstance(chunk, Delta):
                reached.set()

    task = asyncio.create_task(read())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(gateway.cancelled.wait, 10)


async def test_nobody_there() -> None:
    nobody = pytest.raises(errors.Unavailable, match=r"no server answers at 127.0.0.1:9")
    with Client("127.0.0.1:9") as client, nobody:
        await asyncio.to_thread(client.wait_connected, 0.3)
    async with AsyncClient("127.0.0.1:9") as async_client:
        with nobody:
            await async_client.wait_connected(0.3)


def test_connects(client: Client) -> None:
    client.wait_connected(10)
