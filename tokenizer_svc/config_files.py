"""The files of a model's config directory, read once, with errors that name the file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizer_svc.tokenizer import TokenizerConfigError

# What an encoding depends on; everything else in the directory does not change the hash.
_HASHED_NAMES: Final = frozenset(
    {
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "generation_config.json",
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
    }
)
_HASHED_SUFFIX: Final = ".tiktoken"

_SPECIAL_KEYS: Final = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


@dataclass(frozen=True, slots=True)
class ConfigFiles:
    """`tokenizer` is tokenizer_config.json, `generation` is generation_config.json; {} if absent.

    `special` maps names such as "bos_token" to texts; `additional` are further control texts;
    `added` maps an added token's text to its id; `added_control` are those that are special.
    """

    path: Path
    tokenizer: Mapping[str, Any]
    generation: Mapping[str, Any]
    special: Mapping[str, str]
    additional: tuple[str, ...]
    added: Mapping[str, int]
    added_control: frozenset[str]


def read(path: Path) -> ConfigFiles:
    """Raises TokenizerConfigError when a file is not what it should be."""
    tokenizer = read_json(path / "tokenizer_config.json")
    # The newer file wins, as in the library that writes both.
    named = {**read_json(path / "special_tokens_map.json"), **tokenizer}
    special = {key: text for key in _SPECIAL_KEYS if (text := _token_text(named.get(key)))}
    added: dict[str, int] = {}
    control: set[str] = set()
    for text, token_id in read_json(path / "added_tokens.json").items():
        added[text] = _token_id(token_id, path / "added_tokens.json")
    for number, entry in _mapping(tokenizer, "added_tokens_decoder", path).items():
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise TokenizerConfigError(
                f"{path / 'tokenizer_config.json'}: added token {number} has no content"
            )
        added[entry["content"]] = _token_id(number, path / "tokenizer_config.json")
        if entry.get("special"):
            control.add(entry["content"])
    listed = named.get("additional_special_tokens") or []
    return ConfigFiles(
        path=path,
        tokenizer=tokenizer,
        generation=read_json(path / "generation_config.json"),
        special=special,
        additional=tuple(text for item in listed if (text := _token_text(item))),
        added=added,
        added_control=frozenset(control),
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, {} when the file does not exist. Raises TokenizerConfigError."""
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise TokenizerConfigError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(document, dict):
        raise TokenizerConfigError(f"{path} holds no JSON object")
    return document


def sha256(path: Path) -> str:
    """Over names, lengths and contents of the files that encodings depend on, in hex.

    Each file adds its name, a zero byte, its length as 8 bytes little-endian, and its content, in
    the order of names.
    """
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.is_file() and (file.name in _HASHED_NAMES or file.suffix == _HASHED_SUFFIX):
            content = file.read_bytes()
            digest.update(file.name.encode() + b"\0" + len(content).to_bytes(8, "little"))
            digest.update(content)
    return digest.hexdigest()


def _mapping(table: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = table.get(key) or {}
    if not isinstance(value, dict):
        raise TokenizerConfigError(f"{path / 'tokenizer_config.json'}: {key} is not an object")
    return value


def _token_text(value: object) -> str | None:
    """A token is written as its text or as an object with its text."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _token_id(value: object, path: Path) -> int:
    try:
        number = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        number = -1
    if not 0 <= number < 1 << 31:
        raise TokenizerConfigError(f"{path}: {value!r} is not a token id")
    return int(number)
