"""Calls and reasoning in answers, format by format, whole and in every way of cutting."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.tokenizer_svc.answer_texts import FUNCTIONS, read
from tokenizer_svc.answers.formats import AnswerFormats, detect

ROME = ("get_weather", {"city": "Rome"})
ROME_JSON = '{"name": "get_weather", "arguments": {"city": "Rome"}}'
TIME_JSON = '{"name": "get_time", "arguments": {}}'


def tagged(call: str) -> str:
    return f"<tool_call>\n{call}\n</tool_call>"


def fenced(code: str) -> str:
    return f"```python\n{code}\n```"


QWEN = {
    "one call": (tagged(ROME_JSON), "", [ROME]),
    "text before": (f"I look.\n\n{tagged(ROME_JSON)}", "I look.", [ROME]),
    "text around": (f"a\n{tagged(ROME_JSON)}\nb\n", "a\nb\n", [ROME]),
    "parallel": (f"{tagged(ROME_JSON)}\n{tagged(TIME_JSON)}", "", [ROME, ("get_time", {})]),
    "no line feeds": (f"<tool_call>{ROME_JSON}</tool_call>", "", [ROME]),
    "arguments first": (
        tagged('{"arguments": {"city": "Rome"}, "name": "get_weather"}'),
        "",
        [ROME],
    ),
    "arguments as text": (
        tagged('{"name": "get_weather", "arguments": "{\\"city\\": \\"Rome\\"}"}'),
        "",
        [ROME],
    ),
    "other members": (
        tagged('{"id": [1, {"x": -1.5e3}], "name": "g", "arguments": null, "n": 1}'),
        "",
        [("g", {})],
    ),
    "no arguments": (tagged('{"name": "g"}'), "", [("g", {})]),
    "a brace too few": (tagged(ROME_JSON[:-1]), "", [ROME]),
    "a brace too many": (tagged(ROME_JSON + "}"), "", [ROME]),
    "no closing tag": (
        f"<tool_call>{ROME_JSON}\n{tagged(TIME_JSON)}",
        "",
        [ROME, ("get_time", {})],
    ),
    "a line feed in a text": (
        tagged('{"name": "g", "arguments": {"code": "a\nb\tc"}}'),
        "",
        [("g", {"code": "a\nb\tc"})],
    ),
    "tags in a text": (
        tagged('{"name": "g", "arguments": {"x": "</tool_call><tool_call>{}"}}'),
        "",
        [("g", {"x": "</tool_call><tool_call>{}"})],
    ),
    "escapes": (
        tagged(
            '{"name": "g", "arguments": {"x": "\\u00e9\\ud83d\\ude00\\\\\\"", "y": [true, null]}}'
        ),
        "",
        [("g", {"x": 'é😀\\"', "y": [True, None]})],
    ),
    # What is no call stays what it is.
    "unknown function": (tagged('{"name": "rm", "arguments": {}}'), None, []),
    "not JSON": ("<tool_call>\n{'name': 'g'}\n</tool_call>", None, []),
    "a name that is a number": (tagged('{"name": ' + "1" * 5000 + "}"), None, []),
    "arguments of another type": (tagged('{"name": "g", "arguments": [1]}'), None, []),
    "arguments as text of another type": (tagged('{"name": "g", "arguments": "[1]"}'), None, []),
    "no name": (tagged('{"arguments": {}}'), None, []),
    "cut off": ('<tool_call>\n{"name": "get_wea', None, []),
    "a tag in prose": ("use <tool_call> tags, </tool_call> and <tool", None, []),
    "no call": ("  2 < 3 \n", None, []),
    "an empty answer": ("", None, []),
}

LLAMA_ROME = '{"name": "get_weather", "parameters": {"city": "Rome"}}'
LLAMA = {
    "one call": (LLAMA_ROME, "", [ROME]),
    "with the tag": (f"<|python_tag|>{LLAMA_ROME}", "", [ROME]),
    "several": (f'{LLAMA_ROME}; {{"name": "g"}}', "", [ROME, ("g", {})]),
    "several in lines": (f"\n{LLAMA_ROME}\n{LLAMA_ROME};\n", "", [ROME, ROME]),
    "with a type": (f'{{"type": "function", {LLAMA_ROME[1:]}', "", [ROME]),
    "text, tag, call": (f"I look.\n<|python_tag|>{LLAMA_ROME}", "I look.", [ROME]),
    "a list": (
        "[get_weather(city='Rome'), g(a=[1, -2.5], b={'x': None}, c=true)]",
        "",
        [ROME, ("g", {"a": [1, -2.5], "b": {"x": None}, "c": True})],
    ),
    "a list over lines": ('[\n  g(\n    x="a]\'(\\""\n  )\n]\n', "", [("g", {"x": "a]'(\""})]),
    "text behind": (f"{LLAMA_ROME} Done.", "Done.", [ROME]),
    # No calls.
    "python code": ("<|python_tag|>print(1)", "print(1)", []),
    "another function": ('{"name": "rm", "parameters": {}}', None, []),
    "other JSON": ('{"city": "Rome", "name": 1}', None, []),
    "a list of numbers": ("[1, 2, 3]", None, []),
    "a link": ("[g](http://x) is [1]", None, []),
    "an empty list": ("[]", None, []),
    "positional arguments": ("[g(1)]", None, []),
    "a call in an argument": ("[g(a=__import__('os').system('x'))]", None, []),
    "a list cut off": ("[get_weather(city='Ro", None, []),
    "an object cut off": ('{"name": "get_weather", "para', None, []),
    "call in prose": (f"The call {LLAMA_ROME} is right", None, []),
    "separators": ("; ,", None, []),
    "the beginning of the tag": (" <|python", None, []),
}

CHATGLM = {
    "one call": (f"get_weather\n {fenced('tool_call(city=' + repr('Rome') + ')')}", "", [ROME]),
    "leading space": (f" g\n{fenced('tool_call()')}\n", "", [("g", {})]),
    "text, then a call": (
        f"\n I look.<|assistant|> get_weather\n{fenced('tool_call(city=' + repr('Rome') + ')')}",
        "I look.",
        [ROME],
    ),
    "literals": (
        f"g\n{fenced('tool_call(a=(1, 2), b={' + repr('x') + ': True}, c=-1, d=false)')}",
        "",
        [("g", {"a": [1, 2], "b": {"x": True}, "c": -1, "d": False})],
    ),
    "a fence in a text": (
        "g\n```python\ntool_call(x='''\n```\n''')\n```",
        "",
        [("g", {"x": "\n```\n"})],
    ),
    "surrogates": (
        'g\n```python\ntool_call(x="\\ud83d\\ude00\\ud83d")\n```',
        "",
        [("g", {"x": "😀\ufffd"})],
    ),
    "no fence": ("g\ntool_call(a=1)", "", [("g", {"a": 1})]),
    "plain answer": ("\n Hello\n there\n", "Hello\n there\n", []),
    "two turns": ("\n Hello<|assistant|>\n there", "Hello\nthere", []),
    "an unknown name": (f"rm\n {fenced('tool_call()')}", f"rm\n {fenced('tool_call()')}", []),
    "running code": (
        f"g\n{fenced('tool_call(a=open(1))')}",
        f"g\n{fenced('tool_call(a=open(1))')}",
        [],
    ),
    "cut off": ("g\n ```python\ntool_call(a=", "g\n ```python\ntool_call(a=", []),
    "name only": ("get_weather", "get_weather", []),
    "no metadata": ("Good day\nto you", "Good day\nto you", []),
    "an infinity": ("g\ntool_call(a=1e999)", "g\ntool_call(a=1e999)", []),
}
CASES = [
    pytest.param(tools, text, text if shown is None else shown, calls, id=f"{tools}: {name}")
    for tools, cases in (("qwen", QWEN), ("llama3", LLAMA), ("chatglm3", CHATGLM))
    for name, (text, shown, calls) in cases.items()
]


@pytest.mark.parametrize(("tools", "text", "shown", "calls"), CASES)
def test_calls_and_text_are_told_apart_however_the_text_is_cut(
    tools: str, text: str, shown: str, calls: list[object]
) -> None:
    whole = read(text, tools=tools)
    assert whole.text == shown
    assert whole.parsed == calls
    assert read(text, tools=tools, cuts=range(len(text))) == whole
    for cut in range(min(len(text), 200)):
        assert read(text, tools=tools, cuts=[cut]) == whole


def test_arguments_come_as_they_are_written() -> None:
    call = '{"name": "g", "arguments": {"a": [1,  2], "b": "\\u00e9"}}'
    assert read(tagged(call), tools="qwen").calls == [("g", '{"a": [1,  2], "b": "\\u00e9"}', True)]


@pytest.mark.parametrize(
    ("text", "arguments", "complete"),
    [
        ('<tool_call>{"name": "g", "arguments": {"a": 1, b}}</tool_call>', '{"a": 1, b}}', True),
        ('<tool_call>{"name": "g", "arguments": {"a": "x', '{"a": "x', False),
        ('<tool_call>{"name": "g", "arguments": {"a": oh </tool', '{"a": oh </tool', False),
    ],
)
def test_arguments_that_go_wrong_late_are_given_as_they_are(
    text: str, arguments: str, complete: bool
) -> None:
    """The name is out by then."""
    for cuts in (range(0), range(len(text))):
        whole = read(text, tools="qwen", cuts=cuts)
        assert whole.calls == [("g", arguments, complete)]
        assert whole.text == ""


def test_llama_arguments_that_go_wrong_late_are_given_as_they_are() -> None:
    text = '{"name": "g", "parameters": {"a": oh; no'
    assert read(text, tools="llama3").calls == [("g", '{"a": oh; no', False)]


@pytest.mark.parametrize(
    ("tools", "text"),
    [
        ("qwen", f"Hm.\n{tagged(ROME_JSON)}\n{tagged(TIME_JSON)} more"),
        ("llama3", f"{LLAMA_ROME}; {LLAMA_ROME}"),
        ("llama3", "[get_weather(city='Rome'), g()]"),
        ("chatglm3", f"get_weather\n{fenced('tool_call(city=' + repr('Rome') + ')')}\nmore"),
    ],
)
def test_nothing_follows_a_single_call(tools: str, text: str) -> None:
    whole = read(text, tools=tools, single_call=True)
    assert whole.parsed == [ROME]
    assert "more" not in whole.text
    assert read(text, tools=tools, single_call=True, cuts=range(len(text))) == whole


@pytest.mark.parametrize("tools", ["qwen", "llama3"])
def test_without_functions_all_is_text(tools: str) -> None:
    for text in (f" {tagged(ROME_JSON)} ", LLAMA_ROME, "[g()] "):
        assert read(text, tools=tools, functions=()).text == text


THOUGHTS = {
    "thought and answer": ("<think>\nHm, \n so.\n</think>\n\nYes. ", "Hm, \n so.", "Yes. "),
    "space before": ("\n <think>a</think>b", "a", "b"),
    "empty": ("<think>\n\n</think>\n\nYes.", "", "Yes."),
    "never ended": ("<think>\nHm </thi", "Hm </thi", ""),
    "no thought": (" Yes </think>", "", " Yes </think>"),
    "beginning of the tag": (" <thi", "", " <thi"),
    "a second thought": ("<think>a</think>b<think>c</think>", "a", "b<think>c</think>"),
}


@pytest.mark.parametrize(("text", "reasoning", "shown"), THOUGHTS.values(), ids=THOUGHTS)
def test_reasoning_is_split_from_the_answer(text: str, reasoning: str, shown: str) -> None:
    whole = read(text, reasoning="think", functions=())
    assert (whole.reasoning, whole.text) == (reasoning, shown)
    assert read(text, reasoning="think", functions=(), cuts=range(len(text))) == whole


def test_reasoning_may_have_been_opened_by_the_prompt() -> None:
    whole = read("Hm.\n</think>\n\nYes.", reasoning="think", thinks=True)
    assert (whole.reasoning, whole.text) == ("Hm.", "Yes.")


def test_calls_follow_reasoning() -> None:
    text = f"<think>\nA call {tagged(TIME_JSON)}?\n</think>\n\n{tagged(ROME_JSON)}"
    whole = read(text, tools="qwen", reasoning="think")
    assert whole.parsed == [ROME]
    assert whole.reasoning == f"A call {tagged(TIME_JSON)}?"
    assert whole.text == ""


PIECES = [
    *("<tool_call>", "</tool_call>", "<think>", "</think>", "<|assistant|>", "<|python_tag|>"),
    *("{", "}", "[", "]", "(", ")", ":", ",", ";", '"', "'", "\\", "\n", " ", "=", "```"),
    *('"name"', '"arguments"', '"parameters"', '"g"', "g", "get_", "tool_call", "python"),
    *("1", "-", "e", "true", "null", "None", "\\u12", "é", "<", '{"name": "g", "arguments": {'),
    *("g\n```python\ntool_call(", "[g(", "a=1", ROME_JSON, LLAMA_ROME),
]


@settings(max_examples=300, deadline=None)
@given(
    text=st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=14).map("".join),
    tools=st.sampled_from(["qwen", "llama3", "chatglm3", "none"]),
    reasoning=st.sampled_from(["think", "none"]),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    data=st.data(),
)
def test_no_text_breaks_a_reader_and_no_cut_changes_what_it_gives(
    text: str, tools: str, reasoning: str, flags: tuple[bool, bool, bool], data: st.DataObject
) -> None:
    thinks, single_call, with_functions = flags
    cuts = data.draw(st.lists(st.integers(0, len(text))))
    functions = FUNCTIONS if with_functions else ()

    def whole(cuts: list[int]) -> object:
        return read(
            text,
            tools=tools,
            reasoning=reasoning,
            thinks=thinks,
            functions=functions,
            single_call=single_call,
            cuts=cuts,
        )

    at_once = whole([])
    assert whole(cuts) == at_once
    assert whole(list(range(len(text)))) == at_once


@settings(max_examples=100, deadline=None)
@given(
    arguments=st.dictionaries(
        st.from_regex(r"[a-z]{1,6}", fullmatch=True)
        .filter(str.isidentifier)
        .filter(
            lambda name: (
                name
                not in (
                    "if",
                    "in",
                    "is",
                    "as",
                    "or",
                    "and",
                    "not",
                    "for",
                    "def",
                    "del",
                    "try",
                    "else",
                    "elif",
                    "from",
                    "with",
                    "pass",
                    "while",
                    "yield",
                    "raise",
                    "class",
                    "break",
                    "return",
                    "lambda",
                    "import",
                    "global",
                    "except",
                    "assert",
                    "async",
                    "await",
                )
            )
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=4), inner, max_size=3)
            ),
            max_leaves=6,
        ),
        max_size=3,
    )
)
def test_every_arguments_object_survives_every_format(arguments: dict[str, object]) -> None:
    text = json.dumps(arguments)
    keywords = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    answers = {
        "qwen": tagged(f'{{"name": "g", "arguments": {text}}}'),
        "llama3": f'{{"name": "g", "parameters": {text}}}',
        "chatglm3": f"g\n {fenced(f'tool_call({keywords})')}",
    }
    for tools, answer in answers.items():
        assert read(answer, tools=tools).parsed == [("g", arguments)], tools
    assert read(f"[g({keywords})]", tools="llama3").parsed == [("g", arguments)]


@pytest.mark.parametrize(
    ("template", "formats"),
    [
        ("{{ '<tool_call>' }} … </think>", AnswerFormats("qwen", "think")),
        ('<tool_call>\\n{"name"', AnswerFormats("qwen", "none")),
        ("<tool_call>\\n<function=", AnswerFormats("none", "none")),
        (
            'Respond in the format {"name": function name, "parameters": dictionary of',
            AnswerFormats("llama3", "none"),
        ),
        ("<|python_tag|>", AnswerFormats("llama3", "none")),
        ("{{ messages }}", AnswerFormats("none", "none")),
    ],
)
def test_formats_are_told_by_the_template(template: str, formats: AnswerFormats) -> None:
    assert detect([template]) == formats
