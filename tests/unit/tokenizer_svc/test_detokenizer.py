"""Detokenizing in steps gives exactly what decoding at once gives, for every kind."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HfTokenizer

from tests.unit.tokenizer_svc.tiny_tokenizers import MAKERS
from tokenizer_svc.detokenizer import (
    ByteDetokenizer,
    PieceDetokenizer,
    UnknownId,
    WindowDetokenizer,
)
from tokenizer_svc.loading import LoadedTokenizer, load
from tokenizer_svc.tokenizer import Tokenizer

PROPERTY = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXTS = [
    "Hello, world",
    "你好，世界 🙂👨‍👩‍👧",
    " lead  and trail ",
    "a\nb\r\n\n",
    "Größe naïve",
    "🙂" * 5,
]


def cut(ids: Sequence[int], cuts: Sequence[int]) -> list[Sequence[int]]:
    edges = [0, *sorted(c % (len(ids) + 1) for c in cuts), len(ids)]
    return [ids[a:b] for a, b in itertools.pairwise(edges)]


def in_steps(tokenizer: Tokenizer, chunks: Sequence[Sequence[int]], *, keep: bool) -> str:
    decoder = tokenizer.detokenizer(keep_special_tokens=keep)
    return "".join(decoder.push(chunk) for chunk in chunks) + decoder.finish()


def known_ids(tokenizer: Tokenizer) -> list[int]:
    def known(token_id: int) -> bool:
        try:
            tokenizer.token_bytes(token_id)
        except UnknownId:
            return False
        return True

    return [token_id for token_id in range(tokenizer.vocab_size) if known(token_id)]


@pytest.mark.parametrize("kind", MAKERS)
@given(data=st.data())
@PROPERTY
def test_any_ids_in_any_steps(
    kind: str, loaded: dict[str, LoadedTokenizer], data: st.DataObject
) -> None:
    tokenizer = loaded[kind].tokenizer
    ids: list[int] = data.draw(st.lists(st.sampled_from(known_ids(tokenizer)), max_size=30))
    # Many more byte tokens than chance gives, whole characters among them.
    insert: bool = data.draw(st.booleans())
    if insert:
        at = data.draw(st.integers(0, len(ids)))
        text = data.draw(st.text(max_size=6))
        ids[at:at] = tokenizer.encode(text, add_special_tokens=False)
        drop: bool = data.draw(st.booleans())
        if ids and drop:
            del ids[data.draw(st.integers(0, len(ids) - 1))]
    cuts = data.draw(st.lists(st.integers(0, 64), max_size=8))
    keep = data.draw(st.booleans())
    assert in_steps(tokenizer, cut(ids, cuts), keep=keep) == tokenizer.decode(
        ids, keep_special_tokens=keep
    )
    assert in_steps(tokenizer, [[i] for i in ids], keep=keep) == tokenizer.decode(
        ids, keep_special_tokens=keep
    )


@pytest.mark.parametrize("kind", ["byte_level", "gpt2", "wordpiece", "metaspace"])
@given(data=st.data())
@PROPERTY
def test_decoding_equals_the_tokenizers_library(
    kind: str,
    loaded: dict[str, LoadedTokenizer],
    library: dict[str, HfTokenizer],
    data: st.DataObject,
) -> None:
    tokenizer = loaded[kind].tokenizer
    ids = data.draw(st.lists(st.sampled_from(known_ids(tokenizer)), max_size=30))
    keep = data.draw(st.booleans())
    expected = library[kind].decode(ids, skip_special_tokens=not keep)
    assert tokenizer.decode(ids, keep_special_tokens=keep) == expected


@pytest.fixture(scope="session")
def library(configs: dict[str, Path]) -> dict[str, HfTokenizer]:
    kinds = ["byte_level", "wordpiece", "metaspace", "llama_json"]
    made = {kind: HfTokenizer.from_file(str(configs[kind] / "tokenizer.json")) for kind in kinds}
    from tokenizers import decoders, models

    path = configs["gpt2"]
    gpt2 = HfTokenizer(models.BPE.from_file(str(path / "vocab.json"), str(path / "merges.txt")))
    gpt2.decoder = decoders.ByteLevel()
    gpt2.add_special_tokens(["<|endoftext|>"])
    return made | {"gpt2": gpt2}


@given(text=st.text(max_size=20))
@PROPERTY
def test_a_sentencepiece_like_decoder_equals_the_library_on_text(
    loaded: dict[str, LoadedTokenizer], library: dict[str, HfTokenizer], text: str
) -> None:
    tokenizer = loaded["llama_json"].tokenizer
    ids = tokenizer.encode(text, add_special_tokens=True)
    assert tokenizer.decode(ids, keep_special_tokens=False) == library["llama_json"].decode(ids)


@pytest.mark.parametrize("kind", ["sentencepiece", "squeezing", "chatglm"])
@given(data=st.data())
@PROPERTY
def test_decoding_equals_sentencepiece(
    kind: str, loaded: dict[str, LoadedTokenizer], configs: dict[str, Path], data: st.DataObject
) -> None:
    processor = sentencepiece.SentencePieceProcessor(
        model_file=str(configs[kind] / "tokenizer.model")
    )
    ids = data.draw(st.lists(st.integers(0, processor.get_piece_size() - 1), max_size=30))
    decoded = loaded[kind].tokenizer.decode(ids, keep_special_tokens=False)
    assert decoded == processor.decode(ids)


@pytest.mark.parametrize("kind", MAKERS)
def test_half_characters_are_never_shown(kind: str, loaded: dict[str, LoadedTokenizer]) -> None:
    tokenizer = loaded[kind].tokenizer
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        decoder = tokenizer.detokenizer(keep_special_tokens=True)
        assert "\ufffd" not in "".join(decoder.push([token_id]) for token_id in ids)
        assert decoder.finish() == ""


def test_byte_tokens_show_a_character_with_its_last_byte() -> None:
    decoder = ByteDetokenizer([b"\xe4", b"\xbd", b"\xa0", b"a"])
    assert [decoder.push([i]) for i in (0, 1, 2, 3, 0, 1)] == ["", "", "你", "a", "", ""]
    assert decoder.finish() == "\ufffd"
    assert decoder.finish() == ""


def test_piece_bytes_end_with_the_next_piece() -> None:
    decoder = PieceDetokenizer([0xE4, 0xBD, 0xA0, " a", None], spaced={3}, strip_spaces=1)
    assert [decoder.push([i]) for i in (0, 1, 3, 0, 1, 2)] == [
        "",
        "",
        "\ufffd\ufffd a",
        "",
        "",
        "你",
    ]
    with pytest.raises(UnknownId, match="4"):
        decoder.push([4])


@given(data=st.lists(st.binary(max_size=5), max_size=12))
def test_bytes_in_steps_equal_python_s_decoder(data: list[bytes]) -> None:
    decoder = ByteDetokenizer(data)
    shown = "".join(decoder.push([i]) for i in range(len(data))) + decoder.finish()
    assert shown == codecs.decode(b"".join(data), "utf-8", "replace")


def test_a_character_that_the_prompt_began_is_completed() -> None:
    table = [b"\xe4", b"\xbd", b"\xa0", b"!"]
    decoder = ByteDetokenizer(table, prompt_tail=[3, 0, 1])
    assert decoder.push([2]) == "你"
    untouched = ByteDetokenizer(table, prompt_tail=[3, 0, 1])
    assert untouched.finish() == ""


@pytest.mark.parametrize("kind", ["llama_json", "sentencepiece", "metaspace"])
def test_the_space_of_the_first_word_depends_on_the_prompt(
    kind: str, loaded: dict[str, LoadedTokenizer]
) -> None:
    tokenizer = loaded[kind].tokenizer
    the = tokenizer.encode("the", add_special_tokens=False)

    def answer(tail: Sequence[int]) -> str:
        decoder = tokenizer.detokenizer(keep_special_tokens=False, prompt_tail=tail)
        return decoder.push(the) + decoder.finish()

    assert answer([]) == "the"
    assert answer(tokenizer.encode("the", add_special_tokens=False)) == " the"
    assert answer([tokenizer.control_ids["<s>"]]) == "the"


@pytest.mark.parametrize("kind", MAKERS)
def test_unknown_ids_are_named(kind: str, loaded: dict[str, LoadedTokenizer]) -> None:
    tokenizer = loaded[kind].tokenizer
    outside = tokenizer.vocab_size
    with pytest.raises(UnknownId, match=str(outside)):
        tokenizer.detokenizer(keep_special_tokens=False).push([outside])
    with pytest.raises(UnknownId):
        tokenizer.decode([2**32 - 1], keep_special_tokens=False)
    with pytest.raises(UnknownId):
        tokenizer.token_bytes(outside)
    with pytest.raises(UnknownId):
        tokenizer.detokenizer(keep_special_tokens=False, prompt_tail=[outside])


@pytest.mark.parametrize(
    "real_config", ["qwen-v1", "chatglm3-6b", "wizardcoder-15b"], indirect=True
)
def test_published_vocabularies_in_steps(real_config: Path) -> None:
    tokenizer = load(real_config, max_characters=1000).tokenizer
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids, keep_special_tokens=False) == text
        assert in_steps(tokenizer, [[i] for i in ids], keep=False) == text
    for start in range(0, tokenizer.vocab_size, 977):
        ids = [(start * 7919 + step * 104729) % tokenizer.vocab_size for step in range(40)]
        assert in_steps(tokenizer, [[i] for i in ids], keep=True) == tokenizer.decode(
            ids, keep_special_tokens=True
        )


@pytest.mark.parametrize(
    ("strip_spaces", "texts"),
    [(0, [" ", " a", " a"]), (1, ["", " a", " a"]), (2, ["", "a", " a"])],
)
def test_how_many_leading_pieces_lose_their_space(strip_spaces: int, texts: list[str]) -> None:
    decoder = PieceDetokenizer([" ", " a"], spaced={0, 1}, strip_spaces=strip_spaces)
    assert [decoder.push([i]) for i in (0, 1, 1)] == texts


def test_a_window_waits_for_a_character_but_not_for_ever() -> None:
    table = [b"\xf0", b"\x9f", b"\x99", b"\x82"]

    def decode(ids: Sequence[int]) -> str:
        return b"".join(table[i] for i in ids).decode("utf-8", "replace")

    decoder = WindowDetokenizer(decode, table=table, skipped=frozenset())
    assert [decoder.push([i]) for i in (0, 1, 2, 3)] == ["", "", "", "🙂"]
    assert [decoder.push([i]) for i in (3, 3, 3, 3)] == ["", "", "", "\ufffd" * 4]
    assert decoder.push([0, 1]) == ""
    assert decoder.finish() == "\ufffd"
