"""Config directories: what is found in them, and how broken ones are refused."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.tokenizer_svc.tiny_tokenizers import make_byte_level, write_json
from tokenizer_svc.loading import LoadedTokenizer, load
from tokenizer_svc.tokenizer import TokenizerConfigError
from tpuserve.errors import InvalidArgument


def test_kinds_follow_from_files(loaded: dict[str, LoadedTokenizer]) -> None:
    kinds = {name: model.tokenizer.kind for name, model in loaded.items()}
    assert kinds == {
        "byte_level": "huggingface",
        "gpt2": "huggingface",
        "llama_json": "huggingface",
        "wordpiece": "huggingface",
        "metaspace": "huggingface",
        "tiktoken": "tiktoken",
        "sentencepiece": "sentencepiece",
        "squeezing": "sentencepiece",
        "chatglm": "sentencepiece",
    }
    chats = {name for name, model in loaded.items() if model.chat is not None}
    assert chats == {"byte_level", "llama_json", "tiktoken", "sentencepiece", "chatglm"}


def test_special_ids(loaded: dict[str, LoadedTokenizer]) -> None:
    assert loaded["byte_level"].eos_ids == (2, 0)
    assert loaded["gpt2"].eos_ids == (0,)
    assert loaded["llama_json"].eos_ids == (2,)
    assert loaded["sentencepiece"].eos_ids == (2,)
    assert loaded["llama_json"].tokenizer.bos_id == 1
    assert loaded["byte_level"].tokenizer.bos_id is None
    assert loaded["byte_level"].tokenizer.vocab_size == 401
    assert loaded["sentencepiece"].tokenizer.vocab_size == 451
    encode = loaded["llama_json"].tokenizer.encode
    assert encode("the", add_special_tokens=True) == [1, *encode("the", add_special_tokens=False)]


def test_a_single_eos_id_and_defaults(tmp_path: Path) -> None:
    make_byte_level(tmp_path)
    write_json(
        tmp_path / "generation_config.json",
        {
            "eos_token_id": 0,
            "do_sample": True,
            "temperature": 0.6,
            "top_k": 20,
            "top_p": 0.95,
            "repetition_penalty": 1,
            "transformers_version": "4.51.0",
        },
    )
    model = load(tmp_path, max_characters=1000)
    assert model.eos_ids == (0, 2)
    defaults = model.defaults
    assert (defaults.do_sample, defaults.temperature, defaults.top_k) == (True, 0.6, 20)
    assert (defaults.top_p, defaults.min_p, defaults.repetition_penalty) == (0.95, None, 1.0)


def test_the_hash_follows_what_encodings_depend_on(tmp_path: Path) -> None:
    make_byte_level(tmp_path)

    def digest() -> str:
        return load(tmp_path, max_characters=1000).config_sha256

    first = digest()
    (tmp_path / "README.md").write_text("nothing")
    assert digest() == first
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert len({first, digest()}) == 2


def test_tokens_of_the_configuration_are_added(tmp_path: Path) -> None:
    make_byte_level(tmp_path)
    added = {"401": {"content": "<tool>", "special": False}, "402": {"content": "<|eot|>"}}
    write_json(
        tmp_path / "tokenizer_config.json",
        {"added_tokens_decoder": added, "eos_token": "<|eot|>"},
    )
    model = load(tmp_path, max_characters=1000)
    assert model.tokenizer.encode("<tool><|eot|>", add_special_tokens=False) == [401, 402]
    assert model.tokenizer.decode([401, 402], keep_special_tokens=False) == "<tool>"
    assert model.eos_ids == (2, 0, 402)


def break_tokenizer(path: Path) -> None:
    (path / "tokenizer.json").write_text("{")


def break_generation(path: Path) -> None:
    write_json(path / "generation_config.json", {"eos_token_id": 40_000})


def break_value(path: Path) -> None:
    write_json(path / "generation_config.json", {"temperature": "hot"})


def break_top_k(path: Path) -> None:
    write_json(path / "generation_config.json", {"top_k": 1.5})


def break_sampling(path: Path) -> None:
    write_json(path / "generation_config.json", {"do_sample": 1})


def break_added(path: Path) -> None:
    write_json(path / "added_tokens.json", {"<new>": 77})


def break_added_id(path: Path) -> None:
    write_json(path / "added_tokens.json", {"<new>": "x"})


def break_config(path: Path) -> None:
    (path / "tokenizer_config.json").write_text("[1]")


def remove_tokenizer(path: Path) -> None:
    (path / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_tokenizer, r"tokenizer\.json is not a tokenizer"),
        (break_generation, r"eos_token_id 40000 is not an id of the vocabulary of 401 tokens"),
        (break_value, r"generation_config\.json: temperature is 'hot'"),
        (break_top_k, r"top_k is 1\.5"),
        (break_sampling, r"do_sample is 1"),
        (break_added, r"added token '<new>' has id 401 .* and 77 in the configuration"),
        (break_added_id, r"added_tokens\.json: 'x' is not a token id"),
        (break_config, r"tokenizer_config\.json holds no JSON object"),
        (remove_tokenizer, r"holds no tokenizer: none of tokenizer\.json"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    make_byte_level(tmp_path)
    damage(tmp_path)
    with pytest.raises(TokenizerConfigError, match=message):
        load(tmp_path, max_characters=1000)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"!!! 0\n", r"tiny\.tiktoken line 1"),
        (b"QQ== zero\n", r"line 1"),
        (b"QQ== 0\nQg== 2\n", r"ranks of its 2 tokens have gaps"),
        (b"QQ== 0\nQg== 1\n", r"no token for the byte 0x00"),
    ],
)
def test_broken_tiktoken_files_are_named(tmp_path: Path, lines: bytes, message: str) -> None:
    (tmp_path / "tiny.tiktoken").write_bytes(lines)
    with pytest.raises(TokenizerConfigError, match=message):
        load(tmp_path, max_characters=1000)


def test_two_tiktoken_files_are_refused(configs: dict[str, Path], tmp_path: Path) -> None:
    for name in ("a.tiktoken", "b.tiktoken"):
        shutil.copy(configs["tiktoken"] / "tiny.tiktoken", tmp_path / name)
    with pytest.raises(TokenizerConfigError, match=r"2 tiktoken files \(a.tiktoken, b.tiktoken\)"):
        load(tmp_path, max_characters=1000)


def test_a_broken_sentencepiece_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(base64.b64encode(b"not a model"))
    with pytest.raises(TokenizerConfigError, match=r"tokenizer\.model is not a SentencePiece"):
        load(tmp_path, max_characters=1000)


def test_the_newer_llama_behaviour_needs_tokenizer_json(
    configs: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copy(configs["sentencepiece"] / "tokenizer.model", tmp_path)
    write_json(tmp_path / "tokenizer_config.json", {"legacy": False})
    with pytest.raises(TokenizerConfigError, match="legacy is false"):
        load(tmp_path, max_characters=1000)


def test_white_space_that_the_library_cannot_cut_is_refused(
    loaded: dict[str, LoadedTokenizer],
) -> None:
    encode = loaded["tiktoken"].tokenizer.encode
    with pytest.raises(InvalidArgument, match="more than 500000 white-space"):
        encode("a" + " " * 1_100_000 + "b", add_special_tokens=True)
    assert encode("a " * 300_000, add_special_tokens=True)
