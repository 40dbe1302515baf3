"""The training text: what it contains, and what it must not."""

from __future__ import annotations

import random
import re
from pathlib import Path

import jinja2
import pytest
from tokenizers import Tokenizer

from models.demo.corpus import arithmetic, phrasing
from models.demo.corpus.conversations import REFUSAL, Corpus
from models.demo.heldout import read_heldout
from models.demo.tokenizer import CHAT_TEMPLATE, MESSAGE_END, message_prefix, render

DEMO = Path(__file__).resolve().parents[3] / "models" / "demo"


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus(DEMO / "corpus")


def test_no_heldout_question_is_a_wording_of_the_corpus(corpus: Corpus) -> None:
    items = read_heldout(DEMO / "heldout.jsonl")
    assert len(items) >= 100
    heldout = {item.normalized_question for item in items}
    assert len(heldout) == len(items)
    wordings = {phrasing.normalize(text) for text in corpus.outside_wordings()}
    wordings.update(phrasing.normalize(text) for text in corpus.question_wordings())
    assert heldout.isdisjoint(wordings)


def test_no_heldout_sum_is_worded_as_in_the_corpus() -> None:
    numbers = {word for n in range(21) for word in (str(n), arithmetic.in_words(n))}
    shapes = {
        tuple("#" if word in "ab" else word for word in phrasing.normalize(p).split())
        for p in (pattern.format(a="a", b="b") for pattern in arithmetic.patterns())
    }
    for item in read_heldout(DEMO / "heldout.jsonl"):
        words = item.normalized_question.split()
        shape = tuple("#" if word in numbers else word for word in words)
        assert "#" not in shape or shape not in shapes, item.messages[-1].content


def test_sums_are_right() -> None:
    rng = random.Random(0)
    for _ in range(500):
        question, answer = arithmetic.draw(rng)
        parsed = re.fullmatch(r"(\d+) ([+-]) (\d+) = (-?\d+)\.", answer)
        assert parsed, answer
        a, sign, b, result = parsed.groups()
        assert int(result) == (int(a) + int(b) if sign == "+" else int(a) - int(b))
        for n in (int(a), int(b)):
            assert re.search(rf"\b({n}|{arithmetic.in_words(n)})\b", question), (question, answer)


def test_every_wording_can_be_drawn() -> None:
    classes = {"c": ("x", "y")}
    pattern = "a (b|) {c}"
    assert list(phrasing.wordings(pattern, classes)) == ["a b x", "a b y", "a x", "a y"]
    rng = random.Random(0)
    drawn = {phrasing.draw(pattern, classes, rng) for _ in range(100)}
    assert drawn == {"a b x", "a b y", "a x", "a y"}


def test_corpus_lines_have_no_open_ends(corpus: Corpus) -> None:
    for text in corpus.question_wordings():
        assert not re.search(r"[(){}|]", text), text
    answers = [fact.answer for fact in (*corpus.facts, *corpus.chat)]
    assert len(set(answers)) == len(answers)


def test_the_same_seed_gives_the_same_text(corpus: Corpus) -> None:
    first, second = (
        [corpus.conversation(rng) for _ in range(50)]
        for rng in (random.Random(7), random.Random(7))
    )
    assert first == second
    assert any(m.content == REFUSAL for messages in first for m in messages)


def test_training_text_and_chat_template_agree(corpus: Corpus) -> None:
    template = jinja2.Environment().from_string(CHAT_TEMPLATE)
    tokenizer = Tokenizer.from_file(str(DEMO / "config" / "tokenizer.json"))
    rng = random.Random(3)
    for _ in range(50):
        messages = corpus.conversation(rng)
        text = render(messages)
        if messages[0].role == "system":
            dicts = [{"role": m.role, "content": m.content} for m in messages]
            assert template.render(messages=dicts, add_generation_prompt=False) == text
        pieces: list[int] = []
        for message in messages:
            pieces += tokenizer.encode(message_prefix(message)).ids
            pieces += tokenizer.encode(message.content + MESSAGE_END + "\n").ids
        assert pieces == tokenizer.encode(text).ids
