"""What is said about tools, and what of it is refused."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest

from gateway.answer import CallPiece, Given, Text, joined, whole_calls
from gateway.request import ToolCall, ToolCallDelta
from gateway.tool_validation import MAX_TOOLS, MAX_TOOLS_BYTES
from tests.unit.gateway.conftest import Start, World
from tests.unit.gateway.fakes import FakeDevice
from tpuserve.v1 import chat_pb2, generation_pb2, output_pb2

HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


def tool(name: str = "f", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def with_parameters(schema: Any) -> dict[str, Any]:
    return {**HI, "tools": [tool(parameters=schema)]}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def said(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [*HI["messages"], *messages]}


def made(call_id: str = "1", name: str = "f") -> dict[str, Any]:
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": "{}"}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


BAD = [
    ({**HI, "tools": [tool("a b")]}, "tools[0].name is 'a b'; it must have 1 to 64 letters"),
    ({**HI, "tools": [tool("")]}, "tools[0].name is ''"),
    ({**HI, "tools": [tool("x" * 65)]}, "tools[0].name is 'xxx"),
    ({**HI, "tools": [tool(), tool("g"), tool()]}, "tools[2].name is 'f', as that of a tool"),
    ({**HI, "tools": [{**tool(), "type": "web_search"}]}, "tools[0] is of type 'web_search'"),
    ({**HI, "tools": [tool(f"f{n}") for n in range(MAX_TOOLS + 1)]}, "129 tools, at most 128"),
    (
        {**HI, "tools": [tool(description="x" * MAX_TOOLS_BYTES)]},
        f"bytes together, at most {MAX_TOOLS_BYTES}",
    ),
    (with_parameters({"type": "array"}), "tools[0].parameters.type is 'array'"),
    (
        with_parameters({"properties": {"a": {"type": "text"}}}),
        "tools[0].parameters.properties.a.type is 'text'; it must be one of array, boolean",
    ),
    (with_parameters({"properties": []}), "tools[0].parameters.properties is not an object"),
    (with_parameters({"properties": {"a": 1}}), "tools[0].parameters.properties.a is 1, not a"),
    (with_parameters({"required": "a"}), "tools[0].parameters.required is not a list of names"),
    (with_parameters({"properties": {"a": {"enum": []}}}), "properties.a.enum is not a list"),
    (with_parameters({"anyOf": {}}), "tools[0].parameters.anyOf is not a list of schemas"),
    (
        with_parameters({"properties": {"a": {"type": "array", "items": {"type": ["x"]}}}}),
        "properties.a.items.type is 'x'",
    ),
    (with_parameters(nested(40)), "nested more than 32 levels deep"),
    (
        {**HI, "tools": [tool()], "tool_choice": tool("g")},
        "tool_choice names the function 'g'; the tools are: f",
    ),
    ({**HI, "tool_choice": tool("g")}, "the tools are: none"),
    ({**HI, "tool_choice": "required", "tools": []}, "asks for a call and tools is empty"),
    ({**HI, "tools": [tool()], "tool_choice": {"type": "custom", "function": {"name": "f"}}},
     "tool_choice of type 'custom' is not supported"),
    (
        said(made("1"), {"role": "tool", "content": "x", "tool_call_id": "2"}),
        "messages[2].tool_call_id is '2'; no call before it has this id",
    ),
    (said(made(name="")), "messages[1].tool_calls[0].name is empty"),
    (said({"role": "user", "content": "x", "reasoning_content": "y"}), "has reasoning; only an"),
    ({**HI, "chat_template_kwargs": {"tools": []}}, "unknown field `tools`"),
    (
        {**HI, "chat_template_kwargs": {"thinking": True, "enable_thinking": False}},
        "both enable_thinking and thinking, and they differ",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("body", "text"), BAD, ids=[text[:40] for _, text in BAD])
async def test_what_is_wrong_is_named(world: World, body: Any, text: str) -> None:
    url = f"{world.url}/v1/chat/completions"
    async with world.http.post(url, json=body) as response:
        reply = await response.json()
        assert response.status == 400
    assert text in reply["error"]["message"]
    assert world.device.submits == []
    assert world.tokenizer.encodes == 0


def chat(**fields: Any) -> generation_pb2.ChatRequest:
    user = chat_pb2.Message(role=chat_pb2.ROLE_USER, content=[chat_pb2.ContentPart(text="hi")])
    return generation_pb2.ChatRequest(messages=[user], **fields)


@pytest.mark.parametrize(
    ("request_message", "text"),
    [
        (
            chat(tools=[chat_pb2.Tool(name="f", parameters_json="{")]),
            "tools[0].parameters is not JSON",
        ),
        (
            chat(tools=[chat_pb2.Tool(name="f", parameters_json="[]")]),
            "tools[0].parameters is not a JSON object",
        ),
        (
            chat(tool_choice=chat_pb2.ToolChoice.FromString(b"\x08\x09")),
            "tool_choice.mode is 9; it must be NONE (1), AUTO (2) or REQUIRED (3)",
        ),
        (chat(tool_choice=chat_pb2.ToolChoice(function="g")), "names the function 'g'"),
    ],
)
async def test_grpc_names_it_too(
    world: World, request_message: generation_pb2.ChatRequest, text: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await world.stub.ChatOnce(request_message)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert text in str(error.value.details())


async def test_the_tokenizer_learns_what_was_asked(world: World) -> None:
    tools = [chat_pb2.Tool(name=name) for name in ("f", "g")]
    none = chat_pb2.ToolChoice(mode=chat_pb2.ToolChoice.MODE_NONE)
    await world.stub.ChatOnce(chat(tools=tools, thinking=False, parallel_tool_calls=False))
    await world.stub.ChatOnce(chat(tools=tools, tool_choice=none))
    openings = [
        item.open
        for command in world.tokenizer.commands
        for item in command.items
        if item.HasField("open")
    ]
    first, second = openings
    assert (list(first.answer.functions), first.answer.single_call) == (["f", "g"], True)
    assert second.HasField("answer")
    assert (list(second.answer.functions), second.answer.single_call) == ([], False)
    asked, unasked = world.tokenizer.chats
    assert [tool.name for tool in asked.tools] == ["f", "g"]
    assert (asked.HasField("thinking"), asked.thinking) == (True, False)
    assert not asked.parallel_tool_calls
    assert not asked.HasField("tool_choice")
    assert not unasked.HasField("thinking")
    assert not unasked.tools


async def test_a_format_of_the_request_s_own_is_all_text(world: World) -> None:
    regex = output_pb2.OutputFormat(regex="[A-Z]+")
    await world.stub.ChatOnce(chat(output_format=regex, tools=[chat_pb2.Tool(name="f")]))
    (opening,) = (
        item.open
        for command in world.tokenizer.commands
        for item in command.items
        if item.HasField("open")
    )
    assert not opening.HasField("answer")


async def test_calls_that_cannot_be_forced_are_blamed_on_the_tools(world: World) -> None:
    world.tokenizer.demanded = output_pb2.OutputFormat(grammar='start: %json {"type": 1}')
    tools = [chat_pb2.Tool(name="f")]
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await world.stub.ChatOnce(chat(tools=tools, tool_choice=chat_pb2.ToolChoice(function="f")))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "the calls that tool_choice asks for cannot be forced: grammar:" in str(
        error.value.details()
    )


async def test_calls_cannot_be_forced_without_logits(start: Start) -> None:
    async with start(FakeDevice(features=("argmax-head",))) as world:
        world.tokenizer.demanded = output_pb2.OutputFormat(grammar='start: "x"')
        tools = [chat_pb2.Tool(name="f")]
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await world.stub.ChatOnce(
                chat(tools=tools, tool_choice=chat_pb2.ToolChoice(function="f"))
            )
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert str(error.value.details()).startswith("tool_choice needs logits")


async def test_old_routes_leave_answers_as_they_are(world: World) -> None:
    body = {"question": "hi", "history": []}
    async with world.http.post(f"{world.url}/chat/completions", json=body) as response:
        assert response.status == 200
    (opening,) = (
        item.open
        for command in world.tokenizer.commands
        for item in command.items
        if item.HasField("open")
    )
    assert not opening.HasField("answer")


def piece(index: int, name: str, arguments: str, complete: bool = False) -> CallPiece:
    return CallPiece(index, name, arguments, complete)


def answer(text: str = "", reasoning: str = "", *calls: CallPiece) -> Text:
    return Text(text, None, 0, (), reasoning, calls)


def test_a_replay_gives_only_what_is_new() -> None:
    given = Given("s")
    first = given.give(answer("ab", "r", piece(0, "f", '{"a')))
    assert first == (ToolCallDelta(0, _id("s", 0), "f", '{"a'),)
    whole = answer("abc", "rs", piece(0, "f", '{"a": 1}', True), piece(1, "g", "{"))
    rest = given.rest(whole)
    assert (rest.text, rest.reasoning) == ("c", "s")
    assert given.give(rest) == (
        ToolCallDelta(0, "", "", '": 1}'),
        ToolCallDelta(1, _id("s", 1), "g", "{"),
    )
    assert not given.called
    assert given.give(given.rest(whole)) == ()
    given.give(answer("", "", piece(1, "", "}", True)))
    assert given.called


def _id(sequence: str, index: int) -> str:
    (delta,) = Given(sequence).give(answer("", "", *(piece(n, "x", "") for n in range(index + 1))))[
        index:
    ]
    return delta.id


def test_pieces_join_to_calls() -> None:
    pieces = [
        ToolCallDelta(0, "c0", "f", ""),
        ToolCallDelta(0, "", "", '{"a"'),
        ToolCallDelta(0, "", "", ": 1}"),
        ToolCallDelta(1, "c1", "g", "{}"),
    ]
    assert whole_calls(pieces) == (ToolCall("c0", "f", '{"a": 1}'), ToolCall("c1", "g", "{}"))
    assert joined(pieces) == (
        ToolCallDelta(0, "c0", "f", '{"a": 1}'),
        ToolCallDelta(1, "c1", "g", "{}"),
    )
    assert joined(pieces[1:3]) == (ToolCallDelta(0, "", "", '{"a": 1}'),)


def test_ids_of_calls_differ_between_completions() -> None:
    ids = {_id(f"r.{sequence}", index) for sequence in range(3) for index in range(3)}
    assert len(ids) == 9
    assert all(call_id.startswith("call_") and len(call_id) == 29 for call_id in ids)
