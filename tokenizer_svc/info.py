"""The model's sampling defaults and the ids that end an answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizer_svc.config_files import ConfigFiles
from tokenizer_svc.tokenizer import Tokenizer, TokenizerConfigError


@dataclass(frozen=True, slots=True)
class Defaults:
    """Values of generation_config.json, None where it says nothing."""

    do_sample: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None


def defaults(files: ConfigFiles) -> Defaults:
    """Raises TokenizerConfigError when a value is not of its type."""
    table = files.generation
    do_sample = table.get("do_sample")
    if do_sample is not None and not isinstance(do_sample, bool):
        raise _wrong(files, "do_sample", do_sample)
    top_k = _number(files, "top_k")
    if top_k is not None and not top_k.is_integer():
        raise _wrong(files, "top_k", top_k)
    return Defaults(
        do_sample=do_sample,
        temperature=_number(files, "temperature"),
        top_k=None if top_k is None else int(top_k),
        top_p=_number(files, "top_p"),
        min_p=_number(files, "min_p"),
        repetition_penalty=_number(files, "repetition_penalty"),
    )


def eos_ids(files: ConfigFiles, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Those of generation_config.json, then those of the tokenizer; each once.

    Both count: either file may name only the end of a text or only the end of a turn. Raises
    TokenizerConfigError when an id is outside the vocabulary.
    """
    value: Any = files.generation.get("eos_token_id")
    listed = value if isinstance(value, list) else [] if value is None else [value]
    for token_id in listed:
        if type(token_id) is not int or not 0 <= token_id < tokenizer.vocab_size:
            raise TokenizerConfigError(
                f"{files.path / 'generation_config.json'}: eos_token_id {token_id!r} is not an id"
                f" of the vocabulary of {tokenizer.vocab_size} tokens"
            )
    return tuple(dict.fromkeys([*listed, *tokenizer.eos_ids]))


def _number(files: ConfigFiles, key: str) -> float | None:
    table: Mapping[str, Any] = files.generation
    value = table.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(files, key, value)
    if not math.isfinite(value) or value < 0:
        raise _wrong(files, key, value)
    return float(value)


def _wrong(files: ConfigFiles, key: str, value: object) -> TokenizerConfigError:
    return TokenizerConfigError(f"{files.path / 'generation_config.json'}: {key} is {value!r}")
