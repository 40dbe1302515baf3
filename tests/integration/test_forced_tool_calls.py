"""A model that was never taught to call functions is held to calls: demo model, chip emulator."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from bench.processes import Stack
from tests.integration.stack import start_stack
from tests.support.tool_models import make_demo
from tpuserve.client import (
    Client,
    Delta,
    Finished,
    FinishReason,
    Message,
    NamedFunction,
    Options,
    Tool,
    ToolMode,
)

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Rome", "Oslo"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "name": {"type": "string", "maxLength": 6},
    },
    "required": ["city", "days", "name"],
}
WEATHER = Tool("get_weather", "", SCHEMA)
TIME = Tool("get_time")
QUESTION = [Message("user", "What is gRPC?")]


def check(name: str, arguments_json: str) -> None:
    """Against the schema."""
    arguments = json.loads(arguments_json)
    if name == "get_time":
        assert arguments == {}
        return
    assert name == "get_weather"
    assert set(arguments) == {"city", "days", "name"}
    assert arguments["city"] in ("Rome", "Oslo")
    assert type(arguments["days"]) is int
    assert 1 <= arguments["days"] <= 9
    assert len(arguments["name"]) <= 6


@pytest.fixture(scope="module")
def tool_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    path = tmp_path_factory.mktemp("models") / "tools"
    path.mkdir()
    make_demo(path)
    with start_stack(path) as running:
        yield running


def test_grpc_gets_a_valid_call(tool_stack: Stack) -> None:
    with Client(tool_stack.address) as client:
        free = client.chat_once(
            QUESTION, Options(tools=[WEATHER], temperature=0, max_tokens=20, thinking=False)
        )
        assert free.tool_calls == ()
        assert free.text
        options = Options(
            tools=[WEATHER, TIME],
            tool_choice=ToolMode.REQUIRED,
            parallel_tool_calls=False,
            thinking=False,
            seed=7,
            logprobs=0,
        )
        chunks = list(client.chat(QUESTION, options))
        assert isinstance(chunks[-1], Finished)
        assert chunks[-1].reason is FinishReason.TOOL_CALLS
        deltas = [chunk for chunk in chunks if isinstance(chunk, Delta)]
        assert "".join(delta.text + delta.reasoning for delta in deltas) == ""
        pieces = [piece for delta in deltas for piece in delta.tool_calls]
        check(pieces[0].name, "".join(piece.arguments_json for piece in pieces))
        assert all(len(delta.token_ids) == len(delta.logprobs) for delta in deltas)
        again = client.chat_once(QUESTION, options)
        assert again.completions[0].token_ids == tuple(i for d in deltas for i in d.token_ids)


def test_parallel_calls_end_when_the_model_ends_them(tool_stack: Stack) -> None:
    options = Options(
        tools=[TIME], tool_choice=ToolMode.REQUIRED, thinking=False, temperature=0, max_tokens=60
    )
    with Client(tool_stack.address) as client:
        (completion,) = client.chat_once(QUESTION, options).completions
    assert completion.tool_calls
    for call in completion.tool_calls:
        check(call.name, call.arguments_json)
    ended = completion.reason is FinishReason.TOOL_CALLS
    assert ended or completion.reason is FinishReason.LENGTH


@pytest.mark.parametrize("streamed", [False, True])
def test_the_sdk_gets_a_valid_call(tool_stack: Stack, streamed: bool) -> None:
    function = {"name": "get_weather", "parameters": SCHEMA}
    given: Any = {
        "model": "tools",
        "messages": [{"role": "user", "content": "What is gRPC?"}],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "temperature": 1,
        "extra_body": {"chat_template_kwargs": {"enable_thinking": False}},
    }
    with openai.OpenAI(
        base_url=f"{tool_stack.http_url}/v1", api_key="none", max_retries=0, timeout=25
    ) as sdk:
        if streamed:
            with sdk.chat.completions.stream(**given) as stream:
                choice: Any = stream.get_final_completion().choices[0]
        else:
            choice = sdk.chat.completions.create(**given).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    check(call.function.name, call.function.arguments)


def test_a_named_function_may_come_after_reasoning(tool_stack: Stack) -> None:
    options = Options(
        tools=[TIME], tool_choice=NamedFunction("get_time"), max_tokens=60, seed=1, n=2
    )
    with Client(tool_stack.address) as client:
        for completion in client.chat_once(QUESTION, options).completions:
            assert completion.reasoning or completion.tool_calls
            assert completion.text == ""
