"""Parallel calls of the history for templates that take one call in a message."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.tokenizer_svc.tiny_tokenizers import make_byte_level
from tokenizer_svc.conversation import Conversation, Message, ToolCall
from tokenizer_svc.loading import load
from tokenizer_svc.single_calls import one_by_one
from tpuserve.errors import InvalidArgument

ONE = ToolCall("1", "f", {})
TWO = ToolCall("2", "g", {})
TEMPLATE = """\
{%- for m in messages %}{% if m.tool_calls %}
{%- if m.tool_calls | length > 1 %}{{ raise_exception('one call only') }}{% endif %}
{{- m.content }}[{{ m.tool_calls[0].function.name }}]
{%- elif m.content == 'bad' %}{{ raise_exception('bad') }}{% else %}({{ m.content }}){% endif %}
{%- endfor %}"""


def result(call_id: str | None, text: str) -> Message:
    return Message("tool", text, tool_call_id=call_id)


def test_each_call_comes_before_its_result() -> None:
    messages = (
        Message("user", "q"),
        Message("assistant", "I look.", (ONE, TWO), reasoning="Hm."),
        result("2", "b"),
        result("1", "a"),
        result(None, "c"),
        Message("assistant", "done"),
    )
    assert one_by_one(Conversation(messages)).messages == (
        messages[0],
        Message("assistant", "I look.", (ONE,), reasoning="Hm."),
        result("1", "a"),
        Message("assistant", "", (TWO,)),
        result("2", "b"),
        result(None, "c"),
        messages[-1],
    )


def test_a_template_that_refuses_parallel_calls_gets_single_ones(tmp_path: Path) -> None:
    make_byte_level(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    model = load(tmp_path, max_characters=1000)
    assert model.chat is not None
    messages = (Message("assistant", "x", (ONE, TWO)), result("1", "a"), result("2", "b"))
    ids = model.chat.encode(Conversation(messages))
    assert model.tokenizer.decode(ids, keep_special_tokens=True) == "x[f](a)[g](b)"
    for refused in ((Message("user", "bad"),), (*messages, Message("user", "bad"))):
        with pytest.raises(InvalidArgument, match="refuses the conversation: bad"):
            model.chat.encode(Conversation(refused))
