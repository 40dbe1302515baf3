"""Checks of tools, the choice among them, and what a conversation says of earlier calls.

Every text names the value and the limit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from gateway.request import ChatPrompt, Message, Role, Tool
from tpuserve.errors import InvalidArgument

MAX_TOOLS: Final = 128
MAX_TOOLS_BYTES: Final = 256 * 1024
MAX_CALLS_PER_MESSAGE: Final = 128
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_TYPES: Final = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
# Keywords of JSON Schema whose values are a schema, a list of schemas, or schemas by name.
_ONE: Final = ("items", "additionalProperties", "not", "if", "then", "else", "contains")
_LISTS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED: Final = ("properties", "patternProperties", "$defs", "definitions")
_DEEPEST_SCHEMA: Final = 32


def validate_tools(prompt: ChatPrompt) -> None:
    """Raise InvalidArgument for the first thing that is wrong."""
    tools = prompt.tools
    if len(tools) > MAX_TOOLS:
        raise InvalidArgument(f"tools has {len(tools)} tools, at most {MAX_TOOLS}", field="tools")
    names: set[str] = set()
    for number, tool in enumerate(tools):
        where = f"tools[{number}]"
        if not _NAME.fullmatch(tool.name):
            raise InvalidArgument(
                f"{where}.name is {tool.name!r}; it must have 1 to 64 letters, digits, "
                "underscores and hyphens",
                field=f"{where}.name",
            )
        if tool.name in names:
            raise InvalidArgument(
                f"{where}.name is {tool.name!r}, as that of a tool before it",
                field=f"{where}.name",
            )
        names.add(tool.name)
    _check_size(tools)
    for number, tool in enumerate(tools):
        _check_parameters(tool, f"tools[{number}].parameters")
    _check_choice(prompt, names)


def validate_calls(messages: Sequence[Message]) -> None:
    """Earlier calls have names, and results answer a call that was made before them."""
    known: set[str] = set()
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if len(message.tool_calls) > MAX_CALLS_PER_MESSAGE:
            raise InvalidArgument(
                f"{where} has {len(message.tool_calls)} tool_calls, at most "
                f"{MAX_CALLS_PER_MESSAGE}",
                field=f"{where}.tool_calls",
            )
        for position, call in enumerate(message.tool_calls):
            if not call.name:
                field = f"{where}.tool_calls[{position}].name"
                raise InvalidArgument(f"{field} is empty", field=field)
            known.add(call.id)
        if message.tool_call_id is not None and message.tool_call_id not in known:
            raise InvalidArgument(
                f"{where}.tool_call_id is {message.tool_call_id!r}; no call before it has this id",
                field=f"{where}.tool_call_id",
            )
        if message.reasoning and message.role is not Role.ASSISTANT:
            raise InvalidArgument(
                f"{where} of role {message.role.value} has reasoning; only an assistant has",
                field=f"{where}.reasoning",
            )


def _check_size(tools: Sequence[Tool]) -> None:
    size = sum(
        len(text.encode())
        for tool in tools
        for text in (tool.name, tool.description, tool.parameters_json)
    )
    if size > MAX_TOOLS_BYTES:
        raise InvalidArgument(
            f"tools have {size} bytes together, at most {MAX_TOOLS_BYTES}", field="tools"
        )


def _check_choice(prompt: ChatPrompt, names: set[str]) -> None:
    choice = prompt.tool_choice
    if choice.function is not None and choice.function not in names:
        offered = ", ".join(sorted(names)) or "none"
        raise InvalidArgument(
            f"tool_choice names the function {choice.function!r}; the tools are: {offered}",
            field="tool_choice",
        )
    if choice.forced and not names:
        raise InvalidArgument("tool_choice asks for a call and tools is empty", field="tool_choice")


def _check_parameters(tool: Tool, field: str) -> None:
    if not tool.parameters_json:
        return
    try:
        schema = json.loads(tool.parameters_json)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{field} is not JSON: {error}", field=field) from error
    if not isinstance(schema, dict):
        raise InvalidArgument(f"{field} is not a JSON object", field=field)
    if schema.get("type", "object") != "object":
        raise InvalidArgument(
            f"{field}.type is {schema['type']!r}; arguments are an object", field=field
        )
    _check_schema(schema, field, _DEEPEST_SCHEMA)


def _check_schema(schema: Any, field: str, levels: int) -> None:
    """Of JSON Schema (draft 2020-12), what a reader of it relies on."""
    if isinstance(schema, bool):
        return
    if levels == 0:
        raise InvalidArgument(
            f"{field} is nested more than {_DEEPEST_SCHEMA} levels deep", field=field
        )
    if not isinstance(schema, dict):
        raise InvalidArgument(f"{field} is {schema!r}, not a JSON schema", field=field)
    said = schema.get("type", [])
    for kind in said if isinstance(said, list) else [said]:
        if not isinstance(kind, str) or kind not in _TYPES:
            raise InvalidArgument(
                f"{field}.type is {kind!r}; it must be one of {', '.join(sorted(_TYPES))}",
                field=field,
            )
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise InvalidArgument(f"{field}.required is not a list of names", field=field)
    if "enum" in schema and not (isinstance(schema["enum"], list) and schema["enum"]):
        raise InvalidArgument(f"{field}.enum is not a list of values", field=field)
    _check_inner_schemas(schema, field, levels - 1)


def _check_inner_schemas(schema: dict[str, Any], field: str, levels: int) -> None:
    for key in _ONE:
        if key in schema:
            _check_schema(schema[key], f"{field}.{key}", levels)
    for key in _LISTS:
        items = schema.get(key, [])
        if not isinstance(items, list):
            raise InvalidArgument(f"{field}.{key} is not a list of schemas", field=field)
        for number, item in enumerate(items):
            _check_schema(item, f"{field}.{key}[{number}]", levels)
    for key in _NAMED:
        items = schema.get(key, {})
        if not isinstance(items, dict):
            raise InvalidArgument(f"{field}.{key} is not an object of schemas", field=field)
        for name, item in items.items():
            _check_schema(item, f"{field}.{key}.{name}", levels)
