"""Tool calls and reasoning from end to end: real tokenizer and gateway, a device with a script."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import openai
import pytest

from gateway.app import Gateway
from gateway.settings import Settings
from tests.support.tool_models import FAMILIES, call_text, make_config
from tests.unit.gateway.fakes import FakeDevice, Peer, eventually
from tokenizer_svc.loading import LoadedTokenizer, load
from tokenizer_svc.metrics import Metrics
from tokenizer_svc.servicer import TokenizerServicer
from tokenizer_svc.settings import Limits
from tpuserve.client import (
    AsyncClient,
    Delta,
    Finished,
    FinishReason,
    Message,
    NamedFunction,
    Options,
    Tool,
    ToolCall,
    ToolMode,
)
from tpuserve.rpc.server import Server
from tpuserve.v1 import tokenizer_pb2_grpc

ROME = {"city": "Rome", "days": 2}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
WEATHER = Tool("get_weather", "Tells the weather.", SCHEMA)
TIME = Tool("get_time", "Tells the time.")
SDK_TOOLS: Any = [
    {"type": "function", "function": {"name": tool.name, "parameters": tool.parameters or {}}}
    for tool in (WEATHER, TIME)
]
QUESTION = [Message("user", "How is it in Rome?")]
SDK_QUESTION: Any = [{"role": "user", "content": "How is it in Rome?"}]


class RealTokenizer(Peer):
    service = "tpuserve.v1.Tokenizer"

    def __init__(self, loaded: LoadedTokenizer) -> None:
        super().__init__()
        self._loaded = loaded

    def register(self, server: Server) -> None:
        servicer = TokenizerServicer(self._loaded, model="fake", limits=Limits(), metrics=Metrics())
        tokenizer_pb2_grpc.add_TokenizerServicer_to_server(servicer, server.grpc_server)


@dataclass
class World:
    loaded: LoadedTokenizer
    tokenizer: RealTokenizer
    device: FakeDevice
    gateway: Gateway
    client: AsyncClient
    sdk: openai.AsyncOpenAI

    def answer(self, text: str) -> list[int]:
        """What the model will say, token by token."""
        ids = self.loaded.tokenizer.encode(text, add_special_tokens=False)
        self.device.script = [*ids, self.loaded.eos_ids[0]]
        return ids

    def prompt(self) -> str:
        """The last one that the device was given."""
        ids = list(self.device.submits[-1].prompt_ids)
        return self.loaded.tokenizer.decode(ids, keep_special_tokens=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedTokenizer]:
    made = {}
    for family in FAMILIES:
        path = tmp_path_factory.mktemp(family)
        make_config(path, family)
        made[family] = load(path, max_characters=100_000)
        assert made[family].answers.tools == family
    return made


@asynccontextmanager
async def serving(loaded: LoadedTokenizer) -> AsyncIterator[World]:
    tokenizer = RealTokenizer(loaded)
    device = FakeDevice(context_length=4096, vocab_size=loaded.tokenizer.vocab_size)
    async with AsyncExitStack() as stack:
        for peer in (tokenizer, device):
            await peer.start()
            stack.push_async_callback(peer.kill)
        gateway = Gateway(
            replace(
                Settings((tokenizer.address,), (device.address,)),
                grpc_listen="127.0.0.1:0",
                http_listen="127.0.0.1:0",
                drain_grace_s=0.2,
            )
        )
        await gateway.start()
        stack.push_async_callback(gateway.drain)
        await eventually(lambda: gateway.readiness()[0])
        client = await stack.enter_async_context(AsyncClient(f"127.0.0.1:{gateway.grpc_port}"))
        sdk = await stack.enter_async_context(
            openai.AsyncOpenAI(
                base_url=f"http://127.0.0.1:{gateway.http_port}/v1", api_key="none", max_retries=0
            )
        )
        yield World(loaded, tokenizer, device, gateway, client, sdk)


@pytest.fixture
async def qwen(models: dict[str, LoadedTokenizer]) -> AsyncIterator[World]:
    async with serving(models["qwen"]) as world:
        yield world


async def streamed(
    world: World, options: Options, *, step_by_step: bool = False
) -> tuple[list[Delta], Finished]:
    """`step_by_step`: the device takes a step when the client has seen the one before."""
    if step_by_step:
        world.device.hold()
        world.device.allow(1)
    deltas: list[Delta] = []
    async for chunk in world.client.chat(QUESTION, options):
        if isinstance(chunk, Finished):
            return deltas, chunk
        if isinstance(chunk, Delta):
            deltas.append(chunk)
            if step_by_step:
                world.device.allow(1)
    raise AssertionError("the stream ended without an end")


def assembled(deltas: list[Delta]) -> tuple[str, str, list[tuple[str, str, str]]]:
    """Text, reasoning, and each call's id, name and arguments."""
    calls: list[tuple[str, str, str]] = []
    for piece in (piece for delta in deltas for piece in delta.tool_calls):
        if piece.index == len(calls):
            assert piece.id
            assert piece.name
            calls.append((piece.id, piece.name, ""))
        else:
            assert piece.index == len(calls) - 1
            assert not piece.id
            assert not piece.name
        call_id, name, arguments = calls[-1]
        calls[-1] = (call_id, name, arguments + piece.arguments_json)
    text = "".join(delta.text for delta in deltas)
    return text, "".join(delta.reasoning for delta in deltas), calls


async def test_grpc_streams_reasoning_text_and_parallel_calls(qwen: World) -> None:
    call = call_text("qwen", "get_weather", ROME)
    ids = qwen.answer(
        f"<think>\nHm.\n</think>\n\nI look.\n{call}\n{call_text('qwen', 'get_time', {})}"
    )
    options = Options(tools=[WEATHER, TIME], logprobs=1, seed=1)
    # A reader that is late would get several steps in one delta.
    deltas, finished = await streamed(qwen, options, step_by_step=True)
    text, reasoning, calls = assembled(deltas)
    assert (text, reasoning) == ("I look.", "Hm.")
    assert [(name, json.loads(arguments)) for _, name, arguments in calls] == [
        ("get_weather", ROME),
        ("get_time", {}),
    ]
    call_ids = [call_id for call_id, _, _ in calls]
    assert all(call_id.startswith("call_") for call_id in call_ids)
    assert len(set(call_ids)) == 2
    assert finished.reason is FinishReason.TOOL_CALLS
    # Streamed in pieces, and aligned with the tokens whatever became of them.
    assert sum(bool(delta.tool_calls) for delta in deltas) > 3
    assert [i for delta in deltas for i in delta.token_ids] == qwen.device.script
    assert all(len(delta.token_ids) == len(delta.logprobs) for delta in deltas)
    assert finished.usage.completion_tokens == len(ids) + 1
    assert all(json.dumps(tool.name) in qwen.prompt() for tool in (WEATHER, TIME))


@pytest.mark.parametrize("family", FAMILIES)
async def test_the_sdk_assembles_a_call_and_the_conversation_goes_on(
    family: str, models: dict[str, LoadedTokenizer]
) -> None:
    async with serving(models[family]) as world:
        world.answer(call_text(family, "get_weather", ROME))
        given: Any = {"model": "fake", "messages": SDK_QUESTION, "tools": SDK_TOOLS}
        async with world.sdk.chat.completions.stream(**given) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_completion()
        assert "tool_calls.function.arguments.delta" in kinds
        choice = final.choices[0]
        assert choice.finish_reason == "tool_calls"
        assert not choice.message.content
        assert choice.message.tool_calls is not None
        (call,) = choice.message.tool_calls
        assert (call.type, call.function.name) == ("function", "get_weather")
        assert json.loads(call.function.arguments) == ROME

        whole = await world.sdk.chat.completions.create(**given)
        assert whole.choices[0].finish_reason == "tool_calls"
        assert whole.choices[0].message.content is None
        assert whole.choices[0].message.tool_calls is not None
        (again,) = whole.choices[0].message.tool_calls
        assert again.id != call.id
        assert again.type == "function"
        assert again.function.arguments == call.function.arguments

        world.answer("It rains.")
        messages: Any = [
            *SDK_QUESTION,
            whole.choices[0].message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": again.id, "content": '{"sky": "rain"}'},
        ]
        reply = await world.sdk.chat.completions.create(
            model="fake", messages=messages, tools=SDK_TOOLS
        )
        assert reply.choices[0].message.content == "It rains."
        assert reply.choices[0].message.tool_calls is None
        assert reply.choices[0].finish_reason == "stop"
        assert "get_weather" in world.prompt().rpartition("How is it in Rome?")[2]
        assert '{"sky": "rain"}' in world.prompt()


async def test_the_sdk_gets_reasoning_beside_the_answer(qwen: World) -> None:
    qwen.answer("<think>\nHm.\n</think>\n\nYes.")
    given: Any = {"model": "fake", "messages": SDK_QUESTION}
    stream = await qwen.sdk.chat.completions.create(**given, stream=True)
    deltas = [chunk.choices[0].delta async for chunk in stream if chunk.choices]
    thoughts = [(delta.model_extra or {}).get("reasoning_content") or "" for delta in deltas]
    assert "".join(thoughts) == "Hm."
    assert "".join(delta.content or "" for delta in deltas) == "Yes."
    reply = await qwen.sdk.chat.completions.create(**given)
    assert reply.choices[0].message.content == "Yes."
    assert (reply.choices[0].message.model_extra or {})["reasoning_content"] == "Hm."


async def test_thinking_is_switched(qwen: World, models: dict[str, LoadedTokenizer]) -> None:
    qwen.answer("Yes.")
    kwargs = {"chat_template_kwargs": {"enable_thinking": False}}
    await qwen.sdk.chat.completions.create(model="fake", messages=SDK_QUESTION, extra_body=kwargs)
    assert qwen.prompt().endswith("<think>\n\n</think>\n\n")
    await qwen.client.chat_once(QUESTION, Options(thinking=True))
    assert qwen.prompt().endswith("<|im_start|>assistant\n")
    async with serving(models["chatglm3"]) as other:
        with pytest.raises(openai.BadRequestError, match="no switch for thinking"):
            await other.sdk.chat.completions.create(
                model="fake", messages=SDK_QUESTION, extra_body=kwargs
            )


async def test_one_call_ends_the_answer_where_one_is_asked_for(qwen: World) -> None:
    call = call_text("qwen", "get_weather", ROME)
    ids = qwen.answer(call + call)
    options = Options(tools=[WEATHER], parallel_tool_calls=False)
    deltas, finished = await streamed(qwen, options)
    _, _, calls = assembled(deltas)
    assert [json.loads(arguments) for _, _, arguments in calls] == [ROME]
    assert finished.reason is FinishReason.TOOL_CALLS
    used = [i for delta in deltas for i in delta.token_ids]
    assert used == ids[: len(used)]
    assert len(used) == finished.usage.completion_tokens < len(ids) / 2
    await eventually(lambda: not qwen.device.running)


async def test_without_tools_a_call_is_text(qwen: World) -> None:
    call = call_text("qwen", "get_weather", ROME)
    qwen.answer(call)
    for options in (Options(), Options(tools=[WEATHER], tool_choice=ToolMode.NONE)):
        reply = await qwen.client.chat_once(QUESTION, options)
        assert reply.text == call
        assert reply.tool_calls == ()
        assert reply.completions[0].reason is FinishReason.STOP
        assert "get_weather" not in qwen.prompt()
    reply = await qwen.client.generate_once("x", Options())
    assert reply.text == call


@pytest.mark.parametrize("kept", [1, 9, 24, 40, 70])
async def test_a_lost_tokenizer_repeats_no_piece(qwen: World, kept: int) -> None:
    qwen.answer(f"<think>Hm.</think>I look.\n{call_text('qwen', 'get_weather', ROME)}\n"
                + call_text("qwen", "get_time", {}))  # fmt: skip
    options = Options(tools=[WEATHER, TIME])
    unbroken, _ = await streamed(qwen, options)
    qwen.device.hold()
    stream = qwen.client.chat(QUESTION, options)
    qwen.device.allow(kept)
    deltas: list[Delta] = []
    seen = 0
    async for chunk in stream:
        if isinstance(chunk, Delta):
            deltas.append(chunk)
            seen += len(chunk.token_ids)
            if seen == kept:
                await qwen.tokenizer.kill()
                await qwen.tokenizer.start()
                qwen.device.allow(None)
    text, reasoning, calls = assembled(deltas)
    whole_text, whole_reasoning, whole_calls = assembled(unbroken)
    assert (text, reasoning) == (whole_text, whole_reasoning) == ("I look.", "Hm.")
    assert [call[1:] for call in calls] == [call[1:] for call in whole_calls]
    assert [i for delta in deltas for i in delta.token_ids] == qwen.device.script


async def test_a_reply_that_is_cut_says_so(qwen: World) -> None:
    ids = qwen.answer(call_text("qwen", "get_weather", ROME))
    for options, reason in (
        (Options(tools=[WEATHER], stop=["Ro"]), FinishReason.STOP_SEQUENCE),
        (Options(tools=[WEATHER], max_tokens=len(ids) - 18), FinishReason.LENGTH),
    ):
        reply = await qwen.client.chat_once(QUESTION, options)
        assert reply.completions[0].reason is reason
        (call,) = reply.tool_calls
        with pytest.raises(json.JSONDecodeError):
            json.loads(call.arguments_json)


async def test_a_function_may_return_nothing(qwen: World) -> None:
    qwen.answer("Done.")
    call = ToolCall("c", "get_time", "{}")
    messages = [
        *QUESTION,
        Message("assistant", tool_calls=[call], reasoning="Hm."),
        Message("tool", "", tool_call_id="c"),
    ]
    reply = await qwen.client.chat_once(messages, Options(tools=[TIME]))
    assert reply.text == "Done."
    assert "<tool_response></tool_response>" in qwen.prompt()
    assert "<think>Hm.</think>" in qwen.prompt()


async def test_a_function_that_is_not_offered_is_refused(qwen: World) -> None:
    call = qwen.client.chat_once(
        QUESTION, Options(tools=[WEATHER], tool_choice=NamedFunction("rm"))
    )
    with pytest.raises(Exception, match="function 'rm'; the tools are: get_weather"):
        await call
    assert qwen.device.submits == []
