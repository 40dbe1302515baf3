"""Output formats as grammars: what is accepted, and what a mistake's error says."""

from __future__ import annotations

import json

import pytest

from tpuserve import grammar
from tpuserve.errors import InvalidArgument
from tpuserve.output_format import FormatKind, OutputFormat
from tpuserve.rpc.output_format import from_wire, to_wire
from tpuserve.v1 import output_pb2

GOOD = [
    OutputFormat(FormatKind.JSON_OBJECT),
    OutputFormat(FormatKind.JSON_SCHEMA, '{"type": "object", "properties": {"a": {"const": 1}}}'),
    OutputFormat(FormatKind.REGEX, r"^a/b[\d.]+$"),
    OutputFormat(FormatKind.CHOICE, choices=('"quoted"', "\n", "😀", "\\")),
    OutputFormat(FormatKind.GRAMMAR, 'start: "a" b <|im_end|>\nb: <[3]> | %json {"type": "null"}'),
    OutputFormat(FormatKind.GRAMMAR, 'root ::= "a" | b\nb ::= [x-z]+ b?'),
]


def check(output_format: OutputFormat) -> None:
    grammar.check_lark(grammar.lark_of(output_format), output_format.kind)


@pytest.mark.parametrize("output_format", GOOD, ids=lambda f: f.kind.value)
def test_good_formats_pass_and_keep_their_value_on_the_wire(output_format: OutputFormat) -> None:
    check(output_format)
    wire = output_pb2.OutputFormat.FromString(to_wire(output_format).SerializeToString())
    assert from_wire(wire) == output_format
    assert grammar.lark_of(from_wire(wire)) == grammar.lark_of(output_format)


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        (FormatKind.JSON_SCHEMA, "{", "json_schema is not JSON: Expecting property name"),
        (FormatKind.JSON_SCHEMA, "[]", "json_schema must be a JSON object"),
        (FormatKind.JSON_SCHEMA, '{"a":' * 70 + "1" + "}" * 70, "more than 64 levels deep"),
        (FormatKind.JSON_SCHEMA, "[" * 100_000, "more than 64 levels deep"),
        (FormatKind.JSON_SCHEMA, '{"type": "text"}', "json_schema: Invalid type: text"),
        (FormatKind.JSON_SCHEMA, '{"not": {}}', r'json_schema: Unimplemented keys: \["not"\]'),
        (
            FormatKind.JSON_SCHEMA,
            '{"type": "integer", "minimum": 5, "maximum": 3}',
            r"minimum \(5\) is greater than maximum \(3\)",
        ),
        (FormatKind.JSON_SCHEMA, '{"$ref": "file:///etc/passwd"}', "retrieving it failed"),
        (FormatKind.JSON_SCHEMA, '{"enum": [NaN]}', "json_schema: "),
        (FormatKind.REGEX, "(a", "regex: .* unclosed group"),
        (FormatKind.REGEX, "(?=a)b", "look-around"),
        (FormatKind.REGEX, "", "regex has 0 bytes; it must have 1 to 262144"),
        (FormatKind.REGEX, "a" * 262_145, "regex has 262145 bytes"),
        (FormatKind.GRAMMAR, "start: b", 'grammar: at .* unknown name: "b"'),
        (FormatKind.GRAMMAR, "words", "grammar: .*Expected token"),
        (FormatKind.GRAMMAR, 'root ::= "a" (', "grammar is not valid GBNF: "),
        (FormatKind.GRAMMAR, "root ::= a", "grammar is not valid GBNF: Rule 'a' not found"),
        (FormatKind.GRAMMAR, "root ::= " + "(" * 5000, "grammar is not valid GBNF: "),
    ],
)
def test_a_mistake_is_named(kind: FormatKind, text: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as caught:
        check(OutputFormat(kind, text))
    assert caught.value.field == "output_format"
    assert len(caught.value.message) < 600


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ((), "choice has 0 bytes"),
        (("a", ""), r"choice\[1\] is empty"),
        (("a",) * 1001, "choice has 1001 texts, at most 1000"),
    ],
)
def test_choices_are_texts(choices: tuple[str, ...], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        grammar.lark_of(OutputFormat(FormatKind.CHOICE, choices=choices))


@pytest.mark.parametrize(
    "message",
    [
        output_pb2.OutputFormat(),
        output_pb2.OutputFormat(json_object=False),
    ],
)
def test_a_message_that_says_nothing_is_refused(message: output_pb2.OutputFormat) -> None:
    with pytest.raises(InvalidArgument, match="output_format is empty"):
        from_wire(message)


def test_white_space_of_json_is_bounded_unless_the_schema_says_otherwise() -> None:
    def options(schema: dict[str, object]) -> object:
        lark = grammar.lark_of(OutputFormat(FormatKind.JSON_SCHEMA, json.dumps(schema)))
        return json.loads(lark.splitlines()[0].removeprefix("start: %json "))["x-guidance"]

    assert options({}) == {"whitespace_pattern": " "}
    said = {"whitespace_flexible": False}
    assert options({"x-guidance": said}) == said


def test_the_longest_chain_of_rules_does_not_end_the_process() -> None:
    rules = [f'a{i}: "x" a{i + 1}' for i in range(13_000)]
    text = "\n".join(["start: a0", *rules, 'a13000: "y"'])
    assert len(text) > 0.8 * grammar.MAX_TEXT_BYTES
    with grammar.executor("deep") as pool:
        pool.submit(check, OutputFormat(FormatKind.GRAMMAR, text)).result()
