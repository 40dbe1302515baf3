"""`tokenizer.json`, and GPT-2 style `vocab.json` with `merges.txt`, by the `tokenizers` library."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from tokenizer_svc.config_files import ConfigFiles
from tokenizer_svc.control import ControlTexts
from tokenizer_svc.detokenizer import (
    ByteDetokenizer,
    Detokenizer,
    UnknownId,
    WindowDetokenizer,
)
from tokenizer_svc.kinds import gpt2_bytes, qwen
from tokenizer_svc.tokenizer import Part, TokenizerConfigError
from tpuserve.errors import InvalidArgument

_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class HuggingFaceTokenizer:
    """Byte-level and SentencePiece-like decoders become a table of bytes; others are called.

    With a SentencePiece-like decoder, a run of byte tokens that is not UTF-8 decodes as
    `ByteDetokenizer` says; the library turns such a run into U+FFFD altogether, which cannot be
    known before the run ends.
    """

    kind: Final = "huggingface"

    def __init__(self, tokenizer: tokenizers.Tokenizer, files: ConfigFiles) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        _add_tokens(tokenizer, files)
        self._tokenizer = tokenizer
        document = json.loads(tokenizer.to_str())
        self.control_ids: Mapping[str, int] = {
            token["content"]: token["id"] for token in document["added_tokens"] if token["special"]
        }
        self._control = ControlTexts(self.control_ids)
        self._skipped = frozenset(self.control_ids.values())
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        self.bos_id = vocabulary.get(files.special.get("bos_token", ""))
        eos_id = vocabulary.get(files.special.get("eos_token", ""))
        self.eos_ids = () if eos_id is None else (eos_id,)
        decoder = _decoder(document["decoder"])
        self.joins_bytes = decoder.is_table
        self._strip_first_space = decoder.strip_first_space
        self._table: list[bytes | None] = [None] * self.vocab_size
        for token, token_id in vocabulary.items():
            self._table[token_id] = decoder.token_bytes(token)
        self._shown_table = list(self._table)
        for token_id in self._skipped:
            self._shown_table[token_id] = b""
        self._guarded = _Guarded(document, self._control)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def encode_parts(self, parts: Sequence[Part]) -> list[int]:
        if any(part.literal for part in parts):
            return self._guarded.encode(parts)
        return self.encode("".join(part.text for part in parts), add_special_tokens=False)

    def decode(self, ids: Sequence[int], *, keep_special_tokens: bool) -> str:
        if self.joins_bytes:
            decoder = self.detokenizer(keep_special_tokens=keep_special_tokens)
            return decoder.push(ids) + decoder.finish()
        for token_id in ids:
            self.token_bytes(token_id)
        return self._tokenizer.decode(ids, skip_special_tokens=not keep_special_tokens)

    def token_bytes(self, token_id: int) -> bytes:
        entry = self._table[token_id] if token_id < self.vocab_size else None
        if entry is None:
            raise UnknownId(token_id)
        return entry

    def detokenizer(
        self, *, keep_special_tokens: bool, prompt_tail: Sequence[int] = ()
    ) -> Detokenizer:
        if self.joins_bytes:
            return ByteDetokenizer(
                self._table if keep_special_tokens else self._shown_table,
                strip_first_space=self._strip_first_space,
                prompt_tail=prompt_tail,
            )
        return WindowDetokenizer(
            lambda ids: self._tokenizer.decode(ids, skip_special_tokens=False),
            table=self._table,
            skipped=frozenset() if keep_special_tokens else self._skipped,
            prompt_tail=prompt_tail,
        )


class _Guarded:
    """A copy of a tokenizer in which control tokens have secret texts.

    Control texts of a template are replaced by the secret ones and the literal parts stay as they
    are. One call then encodes the whole, so normalization, merges and the spaces around added
    tokens are those of the original, while a control text in a literal part is nothing but text.
    """

    def __init__(self, document: dict[str, Any], control: ControlTexts) -> None:
        nonce = secrets.token_hex(8)
        self._control = control
        self._secret: dict[str, str] = {}
        added: list[dict[str, Any]] = []
        for number, token in enumerate(document["added_tokens"]):
            text = token["content"]
            if token["special"]:
                self._secret[text] = f"<|{nonce}.{number}|>"
                token = {**token, "content": self._secret[text], "single_word": False}
            added.append(token)
        # A post-processor names control tokens and only serves plain texts.
        changed = {**document, "added_tokens": added, "post_processor": None}
        self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(changed))
        # Control tokens that are words of the model's vocabulary got new ids in the copy.
        self._ids = {
            self._tokenizer.token_to_id(copy["content"]): token["id"]
            for copy, token in zip(added, document["added_tokens"], strict=True)
        }
        self._originals = {token["id"] for token in document["added_tokens"] if token["special"]}
        self._originals -= self._ids.keys() | _unknown_ids(document["model"])

    def encode(self, parts: Sequence[Part]) -> list[int]:
        text = "".join(part.text if part.literal else self._hidden(part.text) for part in parts)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not self._originals.isdisjoint(ids):
            # A model without byte-level merges may know the text as a word.
            raise InvalidArgument("a message contains a control token, which cannot be text here")
        return [self._ids.get(token_id, token_id) for token_id in ids]

    def _hidden(self, text: str) -> str:
        pieces = self._control.split(text)
        pieces[1::2] = [self._secret[piece] for piece in pieces[1::2]]
        return "".join(pieces)


@dataclass(frozen=True, slots=True)
class _Decoder:
    """`token_bytes` of a vocabulary entry; `is_table`: their sequence is the whole decoding."""

    is_table: bool
    token_bytes: Callable[[str], bytes]
    strip_first_space: bool = False


def _unknown_ids(model: dict[str, Any]) -> set[int]:
    """The id that a model gives to text it has no tokens for; a control token, but harmless."""
    if isinstance(model["vocab"], dict):
        found = model["vocab"].get(model.get("unk_token"))
    else:
        found = model.get("unk_id")
    return set() if found is None else {found}


def _decoder(description: dict[str, Any] | None) -> _Decoder:
    """Recognizes the decoders of tokenizer.json that are tables."""
    steps = [description] if description else []
    if description and description["type"] == "Sequence":
        steps = description["decoders"]
    types = [step["type"] for step in steps]
    if types == ["ByteLevel"]:
        characters = gpt2_bytes.character_bytes()
        return _Decoder(True, lambda token: gpt2_bytes.token_bytes(token, characters))
    strips = steps[3:]
    if (
        types[:3] == ["Replace", "ByteFallback", "Fuse"]
        and (steps[0]["pattern"], steps[0]["content"]) == ({"String": "\u2581"}, " ")
        and strips in ([], [{"type": "Strip", "content": " ", "start": 1, "stop": 0}])
    ):
        return _Decoder(True, _piece_bytes, strip_first_space=bool(strips))
    return _Decoder(False, str.encode)


def _piece_bytes(token: str) -> bytes:
    found = _BYTE_TOKEN.fullmatch(token)
    return bytes.fromhex(found[1]) if found else token.replace("\u2581", " ").encode()


def _add_tokens(tokenizer: tokenizers.Tokenizer, files: ConfigFiles) -> None:
    """Adds what tokenizer_config.json knows and tokenizer.json does not."""
    control = {*files.special.values(), *files.additional, *files.added_control}
    present = tokenizer.get_added_tokens_decoder().values()
    special = {token.content for token in present if token.special}
    for text, token_id in sorted(files.added.items(), key=lambda item: item[1]):
        if tokenizer.token_to_id(text) is None:
            tokenizer.add_tokens([AddedToken(text, normalized=False, special=text in control)])
        found = tokenizer.token_to_id(text)
        if found != token_id:
            raise TokenizerConfigError(
                f"{files.path}: the added token {text!r} has id {found} in the vocabulary and"
                f" {token_id} in the configuration"
            )
    known = sorted(t for t in control - special if tokenizer.token_to_id(t) is not None)
    tokenizer.add_special_tokens(
        [AddedToken(text, normalized=False, special=True) for text in known]
    )


def load_json(path: Path, files: ConfigFiles) -> HuggingFaceTokenizer:
    """Reads tokenizer.json. Raises TokenizerConfigError."""
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        # The library raises plain Exception.
        raise TokenizerConfigError(f"{path} is not a tokenizer: {error}") from error
    return HuggingFaceTokenizer(tokenizer, files)


def load_gpt2(vocabulary: Path, merges: Path, files: ConfigFiles) -> HuggingFaceTokenizer:
    """Reads vocab.json and merges.txt as byte-level BPE, cut as GPT-2 or Qwen2 does.

    Raises TokenizerConfigError.
    """
    try:
        tokenizer = tokenizers.Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    except Exception as error:
        raise TokenizerConfigError(f"{vocabulary} and {merges.name}: {error}") from error
    if str(files.tokenizer.get("tokenizer_class", "")).startswith("Qwen2"):
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(qwen.CUT_PATTERN), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        space = bool(files.tokenizer.get("add_prefix_space", False))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    tokenizer.decoder = decoders.ByteLevel()
    if tokenizer.token_to_id(qwen.END_OF_TEXT) is not None:
        # Byte-level vocabularies end texts with it, whether or not a configuration says so.
        tokenizer.add_special_tokens([AddedToken(qwen.END_OF_TEXT, normalized=False, special=True)])
        files = replace(files, special={"eos_token": qwen.END_OF_TEXT, **files.special})
    return HuggingFaceTokenizer(tokenizer, files)
