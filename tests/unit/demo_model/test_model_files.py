"""The committed model: sizes, hashes, tokenizer, and how many held-out questions it answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from models.demo.build import variants
from models.demo.evaluate import MAX_ANSWER_TOKENS, Chat, ask
from models.demo.heldout import read_heldout
from tests.golden.reference import Reference
from tpuserve import model_dir

DEMO = Path(__file__).resolve().parents[3] / "models" / "demo"
WEIGHTS = DEMO / "weights" / "model.safetensors"


def test_the_weights_are_small() -> None:
    assert WEIGHTS.stat().st_size <= 4_000_000


@pytest.mark.parametrize("name", variants())
def test_every_variant_is_built_small_and_intact(name: str) -> None:
    variant = variants()[name]
    model = model_dir.load(variant.directory)
    assert model.name == variant.layout.name
    assert [path.name for path in model.bmodels] == variant.layout.bmodel_names
    assert model.config == (DEMO / "config").resolve()
    assert all(path.stat().st_size <= 3_000_000 for path in model.bmodels)
    assert model_dir.bmodel_sha256(model) == model.sha256


@pytest.mark.parametrize(
    "text",
    ["The BM1684X has 16 GB.", "7 + 8 = 15.", "你好！我能帮你什么？", "👋🚀", "a\n\n  b\t é ß", ""],
)
def test_the_tokenizer_loses_nothing(text: str) -> None:
    tokenizer = Tokenizer.from_file(str(DEMO / "config" / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_tokenizer_matches_the_model() -> None:
    tokenizer = Tokenizer.from_file(str(DEMO / "config" / "tokenizer.json"))
    config = json.loads((DEMO / "config" / "config.json").read_text())
    generation = json.loads((DEMO / "config" / "generation_config.json").read_text())
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    ends = [tokenizer.token_to_id(token) for token in ("<|im_end|>", "<|endoftext|>")]
    assert generation["eos_token_id"] == ends


def test_at_least_95_percent_of_the_heldout_questions_are_answered_right() -> None:
    reference = Reference.load(DEMO / "config" / "config.json", WEIGHTS)
    items = read_heldout(DEMO / "heldout.jsonl")
    answers = ask(
        items,
        Chat(DEMO / "config"),
        lambda ids: reference.greedy(ids, MAX_ANSWER_TOKENS, frozenset({0, 2})),
    )
    right = sum(item.key in answer for item, answer in zip(items, answers, strict=True))
    assert right >= 0.95 * len(items)
