"""Answers on a Detokenize stream: calls and reasoning beside stops, control tokens and limits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer as HfTokenizer

from tests.unit.tokenizer_svc.tiny_tokenizers import make_byte_level
from tokenizer_svc.answers import formats
from tokenizer_svc.answers.formats import AnswerFormats
from tokenizer_svc.loading import LoadedTokenizer, load
from tokenizer_svc.metrics import Metrics
from tokenizer_svc.session import DetokenizeSession, ItemRefused, Opening, Refusal, Shown
from tokenizer_svc.settings import Limits
from tokenizer_svc.tokenizer import TokenizerConfigError

TAGS = ["<tool_call>", "</tool_call>", "<think>", "</think>", "<|python_tag|>"]
CALL = '<tool_call>\n{"name": "f", "arguments": {"city": "Rome"}}\n</tool_call>'
QWEN = AnswerFormats("qwen", "think")


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> LoadedTokenizer:
    """A tokenizer in which all tags are control tokens."""
    path = tmp_path_factory.mktemp("tagged")
    make_byte_level(path)
    tokenizer = HfTokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.add_special_tokens(TAGS)
    tokenizer.save(str(path / "tokenizer.json"))
    return load(path, max_characters=1000)


def session_of(
    loaded: LoadedTokenizer, answers: AnswerFormats, limits: Limits | None = None
) -> DetokenizeSession:
    return DetokenizeSession(loaded.tokenizer, limits or Limits(), Metrics(), answers=answers)


def ids_of(loaded: LoadedTokenizer, text: str) -> list[int]:
    return loaded.tokenizer.encode(text, add_special_tokens=False)


def whole(session: DetokenizeSession, opening: Opening, ids: Sequence[int], *, step: int) -> Shown:
    """What all pushes of `step` ids and the end come to."""
    session.open("r", opening)
    parts: list[Shown] = []
    consumed = 0
    for start in range(0, len(ids), step):
        parts.append(session.push("r", ids[start : start + step]))
        consumed += parts[-1].consumed
        if parts[-1].ended:
            break
    else:
        parts.append(session.finish("r"))
    assert len(session) == 0
    return Shown(
        "".join(part.text for part in parts),
        consumed,
        parts[-1].stop_index,
        "".join(part.reasoning for part in parts),
        tuple(call for part in parts for call in part.calls),
        parts[-1].answered,
    )


def calls(shown: Shown) -> list[tuple[str, str, bool]]:
    joined: dict[int, tuple[str, str, bool]] = {}
    for call in shown.calls:
        name, arguments, _ = joined.get(call.index, ("", "", False))
        joined[call.index] = (name + call.name, arguments + call.arguments, call.complete)
    return list(joined.values())


def wishes(*functions: str, single_call: bool = False) -> formats.Opening:
    return formats.Opening(functions, single_call)


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize("kind", ["byte_level", "tagged"])
def test_tags_count_whether_or_not_they_are_control_tokens(
    kind: str, step: int, loaded: dict[str, LoadedTokenizer], tagged: LoadedTokenizer
) -> None:
    model = tagged if kind == "tagged" else loaded["byte_level"]
    text = f"<think>\nHm 🙂.\n</think>\n\nI look.\n{CALL}\n{CALL}"
    shown = whole(session_of(model, QWEN), Opening(answer=wishes("f")), ids_of(model, text),
                  step=step)  # fmt: skip
    assert (shown.reasoning, shown.text) == ("Hm 🙂.", "I look.")
    assert calls(shown) == [("f", '{"city": "Rome"}', True)] * 2
    assert shown.consumed == len(ids_of(model, text))
    assert not shown.answered


@pytest.mark.parametrize("step", [1, 5, 1000])
def test_the_python_tag_is_not_shown(step: int, tagged: LoadedTokenizer) -> None:
    session = session_of(tagged, AnswerFormats("llama3"))
    text = '<|python_tag|>{"name": "f", "parameters": {}}'
    shown = whole(session, Opening(answer=wishes("f")), ids_of(tagged, text), step=step)
    assert (shown.text, calls(shown)) == ("", [("f", "{}", True)])
    shown = whole(
        session, Opening(answer=wishes("f")), ids_of(tagged, "<|python_tag|>f"), step=step
    )
    assert shown.text == "f"


@pytest.mark.parametrize("step", [1, 4, 1000])
def test_a_stop_inside_a_call_cuts_it(step: int, loaded: dict[str, LoadedTokenizer]) -> None:
    model = loaded["byte_level"]
    opening = Opening(stops=['me"}'], answer=wishes("f"))
    shown = whole(session_of(model, QWEN), opening, ids_of(model, CALL), step=step)
    assert shown.stop_index == 0
    assert calls(shown) == [("f", '{"city": "Ro', False)]
    assert shown.text == ""
    opening = Opening(stops=['"f"'], answer=wishes("f"))
    shown = whole(session_of(model, QWEN), opening, ids_of(model, CALL), step=step)
    # No call came of it: the text is what the model wrote.
    assert shown.text == '<tool_call>\n{"name": '
    assert shown.calls == ()


@pytest.mark.parametrize("step", [1, 4, 1000])
def test_a_single_call_ends_the_request_at_its_token(
    step: int, loaded: dict[str, LoadedTokenizer]
) -> None:
    model = loaded["byte_level"]
    opening = Opening(answer=wishes("f", single_call=True))
    shown = whole(session_of(model, QWEN), opening, ids_of(model, CALL + CALL), step=step)
    assert shown.answered
    assert calls(shown) == [("f", '{"city": "Rome"}', True)]
    before = CALL.index("}") + 1
    consumed = model.tokenizer.decode(
        ids_of(model, CALL + CALL)[: shown.consumed], keep_special_tokens=True
    )
    assert before <= len(consumed) <= before + 2


@pytest.mark.parametrize(
    ("prompt", "reasoning", "text"),
    [
        ("<|im_start|>assistant\n<think>\n", "So.", "Yes."),
        ("<|im_start|>assistant\n", "", "So.\n</think>\n\nYes."),
    ],
)
def test_the_prompt_may_have_opened_the_reasoning(
    prompt: str, reasoning: str, text: str, loaded: dict[str, LoadedTokenizer]
) -> None:
    model = loaded["byte_level"]
    opening = Opening(answer=wishes(), prompt_tail=ids_of(model, prompt)[-8:])
    answer = "So.\n</think>\n\nYes."
    shown = whole(session_of(model, QWEN), opening, ids_of(model, answer), step=1)
    assert (shown.reasoning, shown.text) == (reasoning, text)


def test_without_an_answer_to_read_all_is_text(loaded: dict[str, LoadedTokenizer]) -> None:
    model = loaded["byte_level"]
    text = f"<think>a</think>{CALL}"
    shown = whole(session_of(model, QWEN), Opening(), ids_of(model, text), step=2)
    assert (shown.text, shown.reasoning, shown.calls) == (text, "", ())


def test_functions_are_limited(loaded: dict[str, LoadedTokenizer]) -> None:
    session = session_of(loaded["byte_level"], QWEN, Limits(functions=1))
    with pytest.raises(ItemRefused) as error:
        session.open("r", Opening(answer=wishes("f", "g")))
    assert error.value.refusal is Refusal.BAD_OPEN


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize("real_config", ["chatglm3-6b"], indirect=True)
def test_the_published_chatglm3_tokenizer_gives_calls(step: int, real_config: Path) -> None:
    model = load(real_config, max_characters=10_000)
    assert model.answers == AnswerFormats("chatglm3")
    assert set(model.eos_ids) == {2, 64795, 64797}
    encode = model.tokenizer.encode
    turn = model.tokenizer.control_ids["<|assistant|>"]
    ids = [
        *encode("\n", add_special_tokens=False),
        *encode("我来查一下。", add_special_tokens=False),
        turn,
        *encode("get_weather\n", add_special_tokens=False),
        *encode("```python\ntool_call(city='北京', days=3)\n```", add_special_tokens=False),
    ]
    session = session_of(model, model.answers)
    shown = whole(session, Opening(answer=wishes("get_weather")), ids, step=step)
    ((name, arguments, complete),) = calls(shown)
    assert (name, json.loads(arguments), complete) == (
        "get_weather",
        {"city": "北京", "days": 3},
        True,
    )
    assert shown.text == "我来查一下。"
    plain = [*encode("\n", add_special_tokens=False), *encode("Hello", add_special_tokens=False)]
    assert whole(session, Opening(answer=wishes()), plain, step=step).text == "Hello"


def test_the_parsers_can_be_chosen(tmp_path: Path) -> None:
    make_byte_level(tmp_path)
    assert load(tmp_path, max_characters=1000).answers == AnswerFormats("none", "none")
    chosen = load(tmp_path, max_characters=1000, tool_parser="llama3", reasoning_parser="think")
    assert chosen.answers == AnswerFormats("llama3", "think")
    with pytest.raises(TokenizerConfigError, match="tool_parser is 'x', must be one of qwen"):
        load(tmp_path, max_characters=1000, tool_parser="x")
    (tmp_path / "chat_template.jinja").write_text("<tool_call> … </think>")
    assert load(tmp_path, max_characters=1000).answers == QWEN
    chosen = load(tmp_path, max_characters=1000, reasoning_parser="none")
    assert chosen.answers == AnswerFormats("qwen", "none")
