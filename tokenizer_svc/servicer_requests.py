"""Checks protocol messages and turns them into plain values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from tokenizer_svc.answers.formats import AnswerFormats
from tokenizer_svc.answers.grammar import forced_calls
from tokenizer_svc.conversation import Conversation, Message, Picture, Tool, ToolCall
from tpuserve.errors import InvalidArgument
from tpuserve.v1 import chat_pb2, output_pb2, tokenizer_pb2

_ROLES: Final[Mapping[int, str]] = {
    chat_pb2.ROLE_SYSTEM: "system",
    chat_pb2.ROLE_USER: "user",
    chat_pb2.ROLE_ASSISTANT: "assistant",
    chat_pb2.ROLE_TOOL: "tool",
}

_DEEPEST_JSON: Final = 64


def conversation(chat: tokenizer_pb2.ChatInput) -> Conversation:
    """Raises InvalidArgument naming the field."""
    if not chat.messages:
        raise InvalidArgument("messages is empty; at least one is needed", field="messages")
    prompt = chat.add_generation_prompt if chat.HasField("add_generation_prompt") else True
    return Conversation(
        messages=tuple(_message(m, f"messages[{n}]") for n, m in enumerate(chat.messages)),
        tools=tuple(_tool(tool, f"tools[{n}]") for n, tool in enumerate(chat.tools)),
        add_generation_prompt=prompt,
        thinking=chat.thinking if chat.HasField("thinking") else None,
    )


def forced_format(
    chat: tokenizer_pb2.ChatInput,
    conversation: Conversation,
    answers: AnswerFormats,
    *,
    prompt_end: str,
    control_ids: Mapping[str, int],
) -> output_pb2.OutputFormat | None:
    """What the answer must look like for `tool_choice`; None when the model may choose.

    Raises InvalidArgument and FeatureMissing as `grammar.forced_calls`.
    """
    choice = chat.tool_choice
    named = choice.WhichOneof("choice") == "function"
    if not named and choice.mode != chat_pb2.ToolChoice.MODE_REQUIRED:
        return None
    grammar = forced_calls(
        answers,
        conversation.tools,
        function=choice.function if named else None,
        parallel=not chat.HasField("parallel_tool_calls") or chat.parallel_tool_calls,
        prompt_end=prompt_end,
        control_ids=control_ids,
    )
    return output_pb2.OutputFormat(grammar=grammar)


def check_text_size(size_bytes: int, limit_bytes: int, field: str) -> None:
    """Raises InvalidArgument naming both sizes."""
    if size_bytes > limit_bytes:
        raise InvalidArgument(
            f"{field} has {size_bytes} bytes, the limit is {limit_bytes}", field=field
        )


def _message(message: chat_pb2.Message, field: str) -> Message:
    role = _ROLES.get(message.role)
    if role is None:
        known = ", ".join(_ROLES.values())
        raise InvalidArgument(
            f"{field}.role is {message.role}, must be one of {known}", field=f"{field}.role"
        )
    if message.tool_calls and role != "assistant":
        raise InvalidArgument(
            f"{field}.tool_calls is only for the assistant, not for the {role}",
            field=f"{field}.tool_calls",
        )
    if message.HasField("tool_call_id") and role != "tool":
        raise InvalidArgument(
            f"{field}.tool_call_id is only for a tool, not for the {role}",
            field=f"{field}.tool_call_id",
        )
    if message.reasoning and role != "assistant":
        raise InvalidArgument(
            f"{field}.reasoning is only for the assistant, not for the {role}",
            field=f"{field}.reasoning",
        )
    if not message.content and not message.tool_calls:
        raise InvalidArgument(f"{field}.content is empty", field=f"{field}.content")
    pieces = _pieces(message.content, f"{field}.content")
    texts = [piece for piece in pieces if isinstance(piece, str)]
    if len(texts) < len(pieces) and role not in ("user", "tool"):
        raise InvalidArgument(
            f"{field}.content has an image, which only a user or a tool may show",
            field=f"{field}.content",
        )
    return Message(
        role=role,
        content="".join(texts),
        pieces=pieces if len(texts) < len(pieces) else (),
        tool_calls=tuple(
            _tool_call(call, f"{field}.tool_calls[{n}]")
            for n, call in enumerate(message.tool_calls)
        ),
        tool_call_id=message.tool_call_id if message.HasField("tool_call_id") else None,
        name=message.name if message.HasField("name") else None,
        reasoning=message.reasoning,
    )


def _pieces(parts: Iterable[chat_pb2.ContentPart], field: str) -> tuple[str | Picture, ...]:
    pieces: list[str | Picture] = []
    for number, part in enumerate(parts):
        kind = part.WhichOneof("part")
        where = f"{field}[{number}]"
        if kind is None:
            raise InvalidArgument(f"{where} has neither text nor image", field=where)
        pieces.append(Picture(part.image, where) if kind == "image" else part.text)
    return tuple(pieces)


def _tool_call(call: chat_pb2.ToolCall, field: str) -> ToolCall:
    if not call.name:
        raise InvalidArgument(f"{field}.name is empty", field=f"{field}.name")
    try:
        arguments = _loads(call.arguments_json)
    except ValueError:
        arguments = None
    # What is no object is shown to the model as it wrote it.
    shown = arguments if isinstance(arguments, dict) else call.arguments_json
    return ToolCall(id=call.id, name=call.name, arguments=shown)


def _tool(tool: chat_pb2.Tool, field: str) -> Tool:
    if not tool.name:
        raise InvalidArgument(f"{field}.name is empty", field=f"{field}.name")
    parameters: Any = None
    if tool.parameters_json:
        try:
            parameters = _loads(tool.parameters_json)
        except ValueError as error:
            raise InvalidArgument(
                f"{field}.parameters_json is not JSON: {error}", field=f"{field}.parameters_json"
            ) from error
        if not isinstance(parameters, dict):
            raise InvalidArgument(
                f"{field}.parameters_json is not a JSON object", field=f"{field}.parameters_json"
            )
    return Tool(name=tool.name, description=tool.description, parameters=parameters)


def _loads(text: str) -> Any:
    """JSON without NaN and the like, without lone surrogates; raises ValueError."""
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check_depth(value, _DEEPEST_JSON)
    json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _check_depth(value: Any, levels: int) -> None:
    if levels == 0:
        raise ValueError(f"nested more than {_DEEPEST_JSON} levels deep")
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, levels - 1)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")
