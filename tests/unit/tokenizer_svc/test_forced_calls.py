"""Grammars of forced calls: what they let through, judged by llguidance itself."""

from __future__ import annotations

import json
from typing import Any

import llguidance
import pytest

from tests.unit.tokenizer_svc.answer_texts import read
from tokenizer_svc.answers.formats import AnswerFormats
from tokenizer_svc.answers.grammar import forced_calls
from tokenizer_svc.conversation import Tool
from tpuserve.errors import FeatureMissing, InvalidArgument

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
