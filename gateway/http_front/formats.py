"""What a body asks of the text, by OpenAI's `response_format` or vLLM's `structured_outputs` and
`guided_*`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.http_front.openai_types import CommonBody, ResponseFormat, StructuredOutputs
from tpuserve.errors import FeatureMissing, InvalidArgument
from tpuserve.output_format import FormatKind, OutputFormat


def output_format(body: CommonBody) -> OutputFormat | None:
    """None for free text. Raises InvalidArgument when more than one is given."""
    asked = list(_asked(body))
    if len(asked) > 1:
        names = " and ".join(name for name, _ in asked)
        raise InvalidArgument(f"{names} are given; give one of them", field=asked[1][0])
    return asked[0][1] if asked else None


def _asked(body: CommonBody) -> Iterator[tuple[str, OutputFormat]]:
    """Every format with the field that asks for it."""
    if body.response_format is not None and body.response_format.type != "text":
        yield "response_format", _response_format(body.response_format)
    if body.structured_outputs is not None:
        for name, found in _structured(body.structured_outputs):
            yield f"structured_outputs.{name}", found
    guided = StructuredOutputs(
        json=body.guided_json,
        regex=body.guided_regex,
        choice=body.guided_choice,
        grammar=body.guided_grammar,
    )
    for name, found in _structured(guided):
        yield f"guided_{name}", found


def _response_format(said: ResponseFormat) -> OutputFormat:
    if said.type == "json_object":
        return OutputFormat(FormatKind.JSON_OBJECT)
    if said.type != "json_schema":
        raise FeatureMissing(
            f"response_format of type {said.type} is not supported; text, json_object and "
            "json_schema are",
            field="response_format",
        )
    if said.json_schema is None or said.json_schema.schema is None:
        raise InvalidArgument(
            "response_format of type json_schema has no json_schema.schema",
            field="response_format.json_schema",
        )
    return _schema(said.json_schema.schema)


def _structured(said: StructuredOutputs) -> Iterator[tuple[str, OutputFormat]]:
    if said.json is not None:
        yield "json", _schema(said.json)
    if said.json_object:
        yield "json_object", OutputFormat(FormatKind.JSON_OBJECT)
    if said.regex is not None:
        yield "regex", OutputFormat(FormatKind.REGEX, said.regex)
    if said.choice is not None:
        yield "choice", OutputFormat(FormatKind.CHOICE, choices=tuple(said.choice))
    if said.grammar is not None:
        yield "grammar", OutputFormat(FormatKind.GRAMMAR, said.grammar)


def _schema(schema: str | dict[str, Any]) -> OutputFormat:
    text = schema if isinstance(schema, str) else msgspec.json.encode(schema).decode()
    return OutputFormat(FormatKind.JSON_SCHEMA, text)
