"""Grammars that hold a model to calls in its own format, with arguments by their JSON schemas.

In llguidance's form of Lark syntax (its documentation, "Syntax of LLGuidance Grammars").
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tokenizer_svc.answers import formats, qwen, reasoning
from tokenizer_svc.answers.formats import AnswerFormats
from tokenizer_svc.conversation import Tool
from tpuserve.errors import FeatureMissing, InvalidArgument

# As models are trained to write JSON; without it a grammar takes any amount of white space.
_JSON_STYLE: Final = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
# Where `$ref`s of a parameter's schema lead.
_DEFINITIONS: Final = ("$defs", "definitions")
# Members that one part of such a schema names are additional ones of its other parts.
_COMBINATORS: Final = frozenset({"allOf", "anyOf", "oneOf", "$ref"})


def forced_calls(
    answers: AnswerFormats,
    tools: Sequence[Tool],
    *,
    function: str | None,
    parallel: bool,
    prompt_end: str,
    control_ids: Mapping[str, int],
) -> str:
    """The grammar of an answer that is one call of `function`, or calls of any of `tools`.

    Several calls only when `parallel` and without `function`. Reasoning may come first, unless the
    prompt, which ends with `prompt_end`, rules it out. Raises InvalidArgument when there is no such
    tool, and FeatureMissing when the model has no call format that is known.
    """
    chosen = [tool for tool in tools if function is None or tool.name == function]
    if not chosen:
        raise InvalidArgument(
            "tool_choice asks for a call and there are no tools"
            if function is None
            else f"tool_choice names the function {function!r}, which is not among the tools",
            field="tool_choice",
        )
    several = parallel and function is None
    writer = _Writer(control_ids)
    if answers.tools == formats.QWEN:
        calls = _qwen(writer, chosen, several=several)
    elif answers.tools == formats.LLAMA3:
        calls = _llama(writer, chosen, several=several)
    elif answers.tools == formats.CHATGLM3:
        calls = _chatglm(writer, chosen)
    else:
        raise FeatureMissing(
            "tool_choice asks for a call and this model's format of calls is not known",
            field="tool_choice",
        )
    if answers.reasoning == formats.THINK:
        calls = _after_thought(writer, calls, prompt_end)
    return "\n".join([f"start: {calls}", *writer.rules]) + "\n"


class _Writer:
    """Collects rules and writes their parts."""

    def __init__(self, control_ids: Mapping[str, int]) -> None:
        self.rules: list[str] = []
        self._control_ids = control_ids

    def rule(self, name: str, body: str) -> str:
        """The rule's name."""
        self.rules.append(f"{name}: {body}")
        return name

    def tag(self, text: str) -> str:
        """A text that is a control token, or plain text, as the vocabulary has it."""
        token_id = self._control_ids.get(text)
        return _text(text) if token_id is None else f"<[{token_id}]>"

    def is_control(self, text: str) -> bool:
        return text in self._control_ids


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _json(schema: Mapping[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": _JSON_STYLE}, ensure_ascii=False)


def _parameters(tool: Tool) -> dict[str, Any]:
    """The schema of the arguments object, without members that the schema does not name."""
    schema = {"type": "object", **(tool.parameters or {})}
    closes = "properties" in schema and _COMBINATORS.isdisjoint(schema)
    if closes or not tool.parameters:
        schema.setdefault("additionalProperties", False)
    return schema


def _any(rules: Sequence[str]) -> str:
    return f"({' | '.join(rules)})"


def _qwen(writer: _Writer, tools: Sequence[Tool], *, several: bool) -> str:
    start, end = writer.tag(qwen.OPEN), writer.tag(qwen.CLOSE)
    calls = []
    for number, tool in enumerate(tools):
        head = _head(tool.name, "arguments", before="\n")
        arguments = _json_rule(writer, number, tool)
        calls.append(writer.rule(f"call{number}", f'{start} {head} {arguments} "}}\\n" {end}'))
    return _any(calls) + (f' ("\\n" {_any(calls)})*' if several else "")


def _llama(writer: _Writer, tools: Sequence[Tool], *, several: bool) -> str:
    calls = []
    for number, tool in enumerate(tools):
        head = _head(tool.name, "parameters")
        arguments = _json_rule(writer, number, tool)
        calls.append(writer.rule(f"call{number}", f'{head} {arguments} "}}"'))
    return _any(calls) + (f' ("; " {_any(calls)})*' if several else "")


def _head(name: str, key: str, *, before: str = "") -> str:
    return _text(f'{before}{{"name": {json.dumps(name)}, "{key}": ')


def _json_rule(writer: _Writer, number: int, tool: Tool) -> str:
    return writer.rule(f"arguments{number}", _json(_parameters(tool)))


def _chatglm(writer: _Writer, tools: Sequence[Tool]) -> str:
    """Keyword arguments whose values are JSON, which the reader takes as well as Python.

    SentencePiece writes a space at the beginning of a text.
    """
    calls = []
    for number, tool in enumerate(tools):
        opening = _text(f"{tool.name}\n"), '" "?', _text("```python\ntool_call(")
        arguments = _keywords(writer, number, _parameters(tool))
        calls.append(
            writer.rule(f"call{number}", " ".join(['" "?', *opening, arguments, '")\\n```"']))
        )
    return _any(calls)


def _keywords(writer: _Writer, number: int, schema: Mapping[str, Any]) -> str:
    """`a=1, b=2`: the required ones first, then any of the others, in the schema's order."""
    definitions = {key: schema[key] for key in _DEFINITIONS if key in schema}
    required = schema.get("required", [])
    properties = schema.get("properties", {})
    named: dict[str, str] = {}
    for position, (name, value) in enumerate(properties.items()):
        if name.isidentifier():
            described = {**definitions, **(value if isinstance(value, dict) else {})}
            rule = writer.rule(f"value{number}_{position}", _json(described))
            named[name] = f"{_text(name + '=')} {rule}"
    missing = [name for name in required if name not in named]
    if missing:
        raise InvalidArgument(
            f"the parameter {missing[0]!r} cannot be forced in this model's format of calls: it is"
            " no Python name or has no schema",
            field="tools",
        )
    musts = [named[name] for name in required]
    others = [item for name, item in named.items() if name not in required]
    if musts:
        return " ".join([' ", " '.join(musts), *(f'(", " {item})?' for item in others)])
    # Any sequence of optional items: the first one that is there, then those behind it.
    tails = [
        " ".join([item, *(f'(", " {later})?' for later in others[position + 1 :])])
        for position, item in enumerate(others)
    ]
    return f"({' | '.join(tails)})?" if tails else '""'


def _after_thought(writer: _Writer, calls: str, prompt_end: str) -> str:
    end = prompt_end.rstrip()
    if end.endswith(reasoning.CLOSE):
        return calls
    if writer.is_control(reasoning.CLOSE):
        writer.rule("thought", f"/(?s:.*)/ {writer.tag(reasoning.CLOSE)}")
    else:
        writer.rule(f'thought[suffix="{reasoning.CLOSE}"]', "/(?s:.*)/")
    writer.rule("SPACE", "/\\n{0,2}/")
    if end.endswith(reasoning.OPEN):
        return f"thought SPACE {calls}"
    return f"({writer.tag(reasoning.OPEN)} thought SPACE)? {calls}"
