"""Grammars of forced calls: what they let through, judged by llguidance itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import llguidance
import pytest

from tests.unit.tokenizer_svc.answer_texts import read
from tokenizer_svc.answers.formats import AnswerFormats
from tokenizer_svc.answers.grammar import forced_calls
from tokenizer_svc.conversation import Tool
from tokenizer_svc.loading import LoadedTokenizer, load
from tokenizer_svc.vocabulary import vocabulary_of
from tpuserve.errors import FeatureMissing, InvalidArgument
from tpuserve.grammar import lark_of
from tpuserve.output_format import FormatKind, OutputFormat

WEATHER = Tool(
    "get_weather",
    "",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "unit": {"$ref": "#/$defs/unit"},
        },
        "required": ["city"],
        "$defs": {"unit": {"enum": ["C", "F"]}},
    },
)
TIME = Tool("get_time", "", None)
TOOLS = (WEATHER, TIME)
BYTES = llguidance.LLTokenizer("byte")

ROME = '{"city": "Rome", "days": 2, "unit": "C"}'


def grammar(tools: str, reasoning: str = "none", **changes: Any) -> str:
    given: dict[str, Any] = {
        "function": None,
        "parallel": True,
        "prompt_end": "assistant\n",
        "control_ids": {},
        **changes,
    }
    return forced_calls(AnswerFormats(tools, reasoning), TOOLS, **given)


def accepts(grammar: str, text: str) -> bool:
    matcher = llguidance.LLMatcher(BYTES, llguidance.grammar_from("lark", grammar))
    assert not matcher.get_error(), matcher.get_error()
    ids = list(text.encode())
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def qwen(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def llama(name: str, arguments: str) -> str:
    return f'{{"name": "{name}", "parameters": {arguments}}}'


def chatglm(name: str, arguments: str) -> str:
    keywords = ", ".join(f"{k}={json.dumps(v)}" for k, v in json.loads(arguments).items())
    return f"{name}\n ```python\ntool_call({keywords})\n```"


FAMILIES = [("qwen", qwen, "\n"), ("llama3", llama, "; "), ("chatglm3", chatglm, "")]


@pytest.mark.parametrize(("tools", "write", "between"), FAMILIES)
def test_calls_in_the_family_s_format_pass_and_are_read_again(
    tools: str, write: Any, between: str
) -> None:
    made = grammar(tools)
    for name, arguments in (
        ("get_weather", ROME),
        ("get_weather", '{"city": "a\\"]}<b>"}'),
        ("get_time", "{}"),
    ):
        text = write(name, arguments)
        assert accepts(made, text), text
        functions = [tool.name for tool in TOOLS]
        assert read(text, tools=tools, functions=functions).parsed == [
            (name, json.loads(arguments))
        ]
    for name, arguments in (
        ("get_weather", "{}"),
        ("get_weather", '{"city": 1}'),
        ("get_weather", '{"city": "x", "unit": "K"}'),
        ("get_weather", '{"city": "x", "more": 1}'),
        ("get_time", '{"a": 1}'),
        ("rm", "{}"),
    ):
        assert not accepts(made, write(name, arguments)), (name, arguments)
    assert not accepts(made, "Hello")
    assert not accepts(made, "")
    two = write("get_time", "{}") + between + write("get_weather", ROME)
    # ChatGLM3 makes one call at a time.
    assert accepts(made, two) is (tools != "chatglm3")
    assert not accepts(grammar(tools, parallel=False), two)


@pytest.mark.parametrize(("tools", "write"), [family[:2] for family in FAMILIES])
def test_a_named_function_is_the_only_one(tools: str, write: Any) -> None:
    made = grammar(tools, function="get_time")
    assert accepts(made, write("get_time", "{}"))
    assert not accepts(made, write("get_weather", ROME))


@pytest.mark.parametrize(
    ("prompt_end", "thought", "without"),
    [
        ("assistant\n", "<think>\nHm <tool_call>\n</think>\n\n", True),
        ("assistant\n<think>\n", "Hm\n</think>\n\n", False),
        ("assistant\n<think>\n\n</think>\n\n", None, True),
    ],
)
def test_reasoning_may_come_first(prompt_end: str, thought: str | None, without: bool) -> None:
    made = grammar("qwen", "think", prompt_end=prompt_end)
    call = qwen("get_time", "{}")
    assert accepts(made, call) is without
    assert accepts(made, (thought or "<think>a</think>") + call) is (thought is not None)


def test_tags_that_are_control_tokens_are_named_by_id() -> None:
    tags = {"<tool_call>": 7, "</tool_call>": 8, "<think>": 9, "</think>": 10}
    made = grammar("qwen", "think", control_ids=tags)
    assert "<[7]>" in made
    assert "<[8]>" in made
    assert "(<[9]> thought" in made
    assert "<[10]>" in made
    assert '"<tool_call>' not in made
    matcher = llguidance.LLMatcher(BYTES, llguidance.grammar_from("lark", made))
    assert not matcher.get_error()


class Tokens:
    """A tokenizer's tokens in the form that llguidance reads."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, model: LoadedTokenizer) -> None:
        vocabulary = vocabulary_of(model)
        self.tokens = list(vocabulary.tokens)
        self.special_token_ids = list(vocabulary.special_ids)
        self.eos_token_id = vocabulary.eos_ids[0]

    def __call__(self, text: bytes | str) -> list[int]:
        return []


def passes(model: LoadedTokenizer, ids: list[int]) -> bool:
    made = forced_calls(
        model.answers,
        TOOLS,
        function=None,
        parallel=True,
        prompt_end="",
        control_ids=model.tokenizer.control_ids,
    )
    tokenizer = llguidance.LLTokenizer(Tokens(model))  # type: ignore[arg-type]
    lark = lark_of(OutputFormat(FormatKind.GRAMMAR, made))
    matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_lark(lark))
    assert not matcher.get_error(), matcher.get_error()
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def chatglm_ids(model: LoadedTokenizer) -> list[int]:
    """As the model's own format writes a call: metadata and text are encoded apart."""
    encode = model.tokenizer.encode
    call = '```python\ntool_call(city="北京", days=3)\n```'
    return [
        *encode("get_weather\n", add_special_tokens=False),
        *encode(call, add_special_tokens=False),
    ]


def test_the_tokens_of_calls_pass(loaded: dict[str, LoadedTokenizer]) -> None:
    assert passes(loaded["chatglm"], chatglm_ids(loaded["chatglm"]))
    for parser, write in (("qwen", qwen), ("llama3", llama)):
        model = replace(loaded["byte_level"], answers=AnswerFormats(parser))
        ids = model.tokenizer.encode(write("get_weather", ROME), add_special_tokens=False)
        assert passes(model, ids)
        assert not passes(model, ids[:-1])


@pytest.mark.parametrize("real_config", ["chatglm3-6b"], indirect=True)
def test_the_tokens_of_published_chatglm3_calls_pass(real_config: Path) -> None:
    model = load(real_config, max_characters=1000)
    assert passes(model, chatglm_ids(model))


@pytest.mark.parametrize("real_config", ["qwen-v1"], indirect=True)
def test_the_tokens_of_calls_in_published_qwen_tokens_pass(real_config: Path) -> None:
    model = load(real_config, max_characters=1000, tool_parser="qwen")
    text = qwen("get_weather", '{"city": "北京"}')
    assert passes(model, model.tokenizer.encode(text, add_special_tokens=False))


def test_chatglm3_keywords_come_in_any_selection() -> None:
    tools = (
        Tool("f", "", {"properties": {name: {"type": "integer"} for name in ("a", "b", "c")}}),
    )
    made = forced_calls(
        AnswerFormats("chatglm3"),
        tools,
        function=None,
        parallel=True,
        prompt_end="",
        control_ids={},
    )
    for keywords in ("", "a=1", "b=1", "a=1, c=2", "b=1, c=2", "a=1, b=2, c=3"):
        assert accepts(made, f"f\n```python\ntool_call({keywords})\n```"), keywords
    for keywords in ("b=1, a=2", "a=1,b=2", ", a=1", "d=1"):
        assert not accepts(made, f"f\n```python\ntool_call({keywords})\n```"), keywords


def test_what_cannot_be_forced_is_refused_by_name() -> None:
    with pytest.raises(FeatureMissing, match="format of calls is not known"):
        grammar("none")
    with pytest.raises(InvalidArgument, match="the function 'rm', which is not among"):
        grammar("qwen", function="rm")
    odd = Tool("f", "", {"properties": {"a-b": {}}, "required": ["a-b"]})
    with pytest.raises(InvalidArgument, match="the parameter 'a-b' cannot be forced"):
        forced_calls(
            AnswerFormats("chatglm3"),
            (odd,),
            function=None,
            parallel=True,
            prompt_end="",
            control_ids={},
        )
