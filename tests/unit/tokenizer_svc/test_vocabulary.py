"""The vocabulary that devices get: its bytes join to what the tokenizer decodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.tokenizer_svc.tiny_tokenizers import MAKERS
from tokenizer_svc.loading import LoadedTokenizer, load
from tokenizer_svc.vocabulary import vocabulary_of
from tpuserve.errors import FeatureMissing, InvalidArgument
from tpuserve.rpc.vocabulary import from_wire, to_wire
from tpuserve.v1 import output_pb2
from tpuserve.vocabulary import Vocabulary

TEXT = '{"name": "Zoë", "n": [1, 20, -3.5e7], "日本": null, "t": "a\\nb 🙂"}\n\tend'
# Their decoders change tokens when they join them.
CHANGED = ("metaspace", "wordpiece")


def check_bytes(loaded: LoadedTokenizer) -> None:
    tokenizer, vocabulary = loaded.tokenizer, vocabulary_of(loaded)
    assert len(vocabulary.tokens) == tokenizer.vocab_size
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    assert not set(ids) & set(vocabulary.special_ids)
    joined = b"".join(vocabulary.tokens[i] for i in ids).decode()
    decoded = tokenizer.decode(ids, keep_special_tokens=True)
    # A first space is the tokenizer's own and not shown.
    assert joined.lstrip(" ") == decoded.lstrip(" ")
    for text, token_id in tokenizer.control_ids.items():
        assert token_id in vocabulary.special_ids
        assert vocabulary.tokens[token_id] == text.encode()
    assert vocabulary.eos_ids == loaded.eos_ids
    same = from_wire(output_pb2.Vocabulary.FromString(to_wire(vocabulary).SerializeToString()))
    assert list(same.tokens) == list(vocabulary.tokens)
    assert (same.special_ids, same.eos_ids) == (vocabulary.special_ids, vocabulary.eos_ids)


@pytest.mark.parametrize("kind", sorted(set(MAKERS) - set(CHANGED)))
def test_every_kind(kind: str, loaded: dict[str, LoadedTokenizer]) -> None:
    check_bytes(loaded[kind])


@pytest.mark.parametrize(
    "real_config", ["chatglm3-6b", "qwen-v1", "wizardcoder-15b"], indirect=True
)
def test_published_tokenizers(real_config: Path) -> None:
    check_bytes(load(real_config, max_characters=100_000))


@pytest.mark.parametrize("kind", CHANGED)
def test_tokens_that_are_no_pieces_of_text_are_refused(
    kind: str, loaded: dict[str, LoadedTokenizer]
) -> None:
    with pytest.raises(FeatureMissing, match="tokens are pieces of the text"):
        vocabulary_of(loaded[kind])


def test_the_sum_tells_vocabularies_apart() -> None:
    values = [
        Vocabulary([b"ab", b"c"], (), ()),
        Vocabulary([b"a", b"bc"], (), ()),
        Vocabulary([b"ab", b"c"], (1,), ()),
        Vocabulary([b"ab", b"c"], (), (1,)),
        Vocabulary([b"ab", b"c", b""], (), ()),
    ]
    assert len({value.sha256() for value in values}) == len(values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lengths": [1, 2]}, "lengths add up to 3 bytes, token_bytes has 2"),
        ({"special_ids": [2]}, "special_ids holds 2, the vocabulary has 2 ids"),
        ({"eos_ids": [9]}, "eos_ids holds 9, the vocabulary has 2 ids"),
        ({"sha256": "00"}, "sha256 is 00, that of the tokens is "),
        ({"token_bytes": b"xy"}, "sha256 is "),
    ],
)
def test_a_message_that_contradicts_itself_is_refused(change: dict[str, object], said: str) -> None:
    message = to_wire(Vocabulary([b"a", b"b"], (1,), (1,)))
    fields = {field.name: value for field, value in message.ListFields()}
    with pytest.raises(InvalidArgument, match=said):
        from_wire(output_pb2.Vocabulary(**{**fields, **change}))
