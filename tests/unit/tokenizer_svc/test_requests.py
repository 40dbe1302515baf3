"""Protocol messages that are no conversation are refused by the name of the field."""

from __future__ import annotations

import pytest

from tokenizer_svc.conversation import Conversation, Message, Tool, ToolCall
from tokenizer_svc.pictures import check_pictures
from tokenizer_svc.servicer_requests import conversation
from tpuserve.errors import FeatureMissing, InvalidArgument
from tpuserve.v1 import chat_pb2 as chat
from tpuserve.v1 import tokenizer_pb2 as pb


def message(role: chat.Role.ValueType = chat.ROLE_USER, *texts: str) -> chat.Message:
    return chat.Message(role=role, content=[chat.ContentPart(text=text) for text in texts])


def test_a_full_conversation() -> None:
    call = chat.ToolCall(id="c", name="f", arguments_json='{"x": 1}')
    wrong = chat.ToolCall(id="d", name="f", arguments_json="[1]")
    found = conversation(
        pb.ChatInput(
            messages=[
                message(chat.ROLE_SYSTEM, "a", "b"),
                chat.Message(role=chat.ROLE_ASSISTANT, tool_calls=[call, wrong]),
                chat.Message(
                    role=chat.ROLE_TOOL,
                    content=[chat.ContentPart(text="")],
                    tool_call_id="c",
                    name="f",
                ),
            ],
            tools=[chat.Tool(name="f", parameters_json='{"type": "object"}'), chat.Tool(name="g")],
            add_generation_prompt=False,
        )
    )
    assert found == Conversation(
        (
            Message("system", "ab"),
            Message("assistant", "", (ToolCall("c", "f", {"x": 1}), ToolCall("d", "f", "[1]"))),
            Message("tool", "", (), "c", "f"),
        ),
        (Tool("f", "", {"type": "object"}), Tool("g", "", None)),
        False,
    )


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "messages"),
        ([message(), message(chat.ROLE_UNSPECIFIED, "x")], "messages[0].content"),
        ([message(chat.ROLE_UNSPECIFIED, "x")], "messages[0].role"),
        ([chat.Message(role=9, content=[chat.ContentPart(text="x")])], "messages[0].role"),  # type: ignore[arg-type]
        (
            [chat.Message(role=chat.ROLE_USER, tool_calls=[chat.ToolCall(name="f")])],
            "messages[0].tool_calls",
        ),
        (
            [chat.Message(role=chat.ROLE_ASSISTANT, tool_calls=[chat.ToolCall()])],
            "messages[0].tool_calls[0].name",
        ),
        ([chat.Message(role=chat.ROLE_USER, tool_call_id="x")], "messages[0].tool_call_id"),
        (
            [
                message(chat.ROLE_USER, "x"),
                chat.Message(role=chat.ROLE_USER, content=[chat.ContentPart()]),
            ],
            "messages[1].content[0]",
        ),
    ],
)
def test_wrong_messages_are_named(messages: list[chat.Message], field: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        conversation(pb.ChatInput(messages=messages))
    assert error.value.field == field
    assert field in error.value.message


@pytest.mark.parametrize(
    "json",
    [
        "{",
        "[]",
        '"x"',
        "[" * 100_000,
        '{"a":' * 65 + "1" + "}" * 65,
        '{"a": NaN}',
        '{"a": "\\ud800"}',
    ],
)
def test_wrong_schemas_are_named(json: str) -> None:
    tools = [chat.Tool(name="f", parameters_json=json)]
    with pytest.raises(InvalidArgument, match=r"^tools\[0\]\.parameters_json is not"):
        conversation(pb.ChatInput(messages=[message(chat.ROLE_USER, "x")], tools=tools))


def test_images_need_a_model_that_sees() -> None:
    parts = [chat.ContentPart(text="what is"), chat.ContentPart(image=b"\x89PNG")]
    asked = conversation(pb.ChatInput(messages=[chat.Message(role=chat.ROLE_USER, content=parts)]))
    with pytest.raises(FeatureMissing, match=r"messages\[0\]\.content\[1\] is an image"):
        check_pictures(asked, None)


def test_an_assistant_shows_no_images() -> None:
    parts = [chat.ContentPart(image=b"\x89PNG")]
    with pytest.raises(InvalidArgument, match=r"only a user or a tool may show"):
        conversation(pb.ChatInput(messages=[chat.Message(role=chat.ROLE_ASSISTANT, content=parts)]))
