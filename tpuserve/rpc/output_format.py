"""Between `tpuserve.v1.OutputFormat` and the plain value."""

from __future__ import annotations

from typing import Final

from tpuserve.errors import InvalidArgument
from tpuserve.output_format import FormatKind, OutputFormat
from tpuserve.v1 import output_pb2

_TEXT_KINDS: Final = {
    "json_schema": FormatKind.JSON_SCHEMA,
    "regex": FormatKind.REGEX,
    "grammar": FormatKind.GRAMMAR,
}


def from_wire(message: output_pb2.OutputFormat) -> OutputFormat:
    """Raises InvalidArgument for a message that says nothing."""
    kind = message.WhichOneof("format")
    if kind == "choice":
        return OutputFormat(FormatKind.CHOICE, choices=tuple(message.choice.texts))
    if kind == "json_object" and message.json_object:
        return OutputFormat(FormatKind.JSON_OBJECT)
    if kind in _TEXT_KINDS:
        return OutputFormat(_TEXT_KINDS[kind], getattr(message, kind))
    raise InvalidArgument(
        "output_format is empty: set json_schema, json_object (to true), regex, grammar or choice",
        field="output_format",
    )


def to_wire(value: OutputFormat) -> output_pb2.OutputFormat:
    if value.kind is FormatKind.CHOICE:
        choice = output_pb2.OutputFormat.Choice(texts=value.choices)
        return output_pb2.OutputFormat(choice=choice)
    if value.kind is FormatKind.JSON_OBJECT:
        return output_pb2.OutputFormat(json_object=True)
    message = output_pb2.OutputFormat()
    setattr(message, value.kind.value, value.text)
    return message
