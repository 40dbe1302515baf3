"""tiktoken files (`*.tiktoken`: base64 bytes and a rank per line) with Qwen v1's conventions."""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import tiktoken

from tokenizer_svc.control import ControlTexts
from tokenizer_svc.detokenizer import ByteDetokenizer, first_unknown
from tokenizer_svc.kinds import qwen
from tokenizer_svc.kinds.parts import encode_between
from tokenizer_svc.tokenizer import Part, TokenizerConfigError
from tpuserve.errors import InvalidArgument

_ALL_BYTES: Final = 256

# The library cuts white space with a backtracking pattern whose stack ends at a million characters.
_LONGEST_SPACE: Final = 500_000
_SPACE: Final = re.compile(r"\s+")


class TiktokenTokenizer:
    """Byte-level BPE. Texts are NFC-normalized before encoding, as Qwen v1 does."""

    kind: Final = "tiktoken"
    joins_bytes: Final = True
    bos_id: Final = None

    def __init__(self, ranks: Mapping[bytes, int]) -> None:
        """`ranks` are dense from 0 and hold every single byte."""
        self.control_ids: Mapping[str, int] = qwen.control_ids(len(ranks))
        self.eos_ids = (self.control_ids[qwen.TURN_END], self.control_ids[qwen.END_OF_TEXT])
        self.vocab_size = len(ranks) + len(self.control_ids)
        self._encoding = tiktoken.Encoding(
            "qwen", pat_str=qwen.CUT_PATTERN, mergeable_ranks=dict(ranks), special_tokens={}
        )
        self._control = ControlTexts(self.control_ids)
        ordinary = [b""] * len(ranks)
        for token, rank in ranks.items():
            ordinary[rank] = token
        self._table = [*ordinary, *(text.encode() for text in self.control_ids)]
        self._shown_table = [*ordinary, *(b"" for _ in self.control_ids)]

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Nothing is added around a text: the model expects nothing there."""
        return self.encode_parts([Part(text)])

    def encode_parts(self, parts: Sequence[Part]) -> list[int]:
        return encode_between(
            parts,
            control=self._control,
            control_ids=self.control_ids,
            encode_ordinary=self._encode_ordinary,
        )

    def _encode_ordinary(self, text: str) -> list[int]:
        if not text:
            return []
        if len(text) > _LONGEST_SPACE and any(
            found.end() - found.start() > _LONGEST_SPACE for found in _SPACE.finditer(text)
        ):
            raise InvalidArgument(
                f"the text has more than {_LONGEST_SPACE} white-space characters in a row"
            )
        return self._encoding.encode_ordinary(unicodedata.normalize("NFC", text))

    def decode(self, ids: Sequence[int], *, keep_special_tokens: bool) -> str:
        decoder = self.detokenizer(keep_special_tokens=keep_special_tokens)
        return decoder.push(ids) + decoder.finish()

    def token_bytes(self, token_id: int) -> bytes:
        if token_id >= self.vocab_size:
            raise first_unknown([token_id], self._table)
        return self._table[token_id]

    def detokenizer(
        self, *, keep_special_tokens: bool, prompt_tail: Sequence[int] = ()
    ) -> ByteDetokenizer:
        table = self._table if keep_special_tokens else self._shown_table
        return ByteDetokenizer(table, prompt_tail=prompt_tail)


def load(path: Path) -> TiktokenTokenizer:
    """Raises TokenizerConfigError naming the line that is wrong."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise TokenizerConfigError(f"{path} line {number}: {error}") from error
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise TokenizerConfigError(f"{path}: the ranks of its {len(ranks)} tokens have gaps")
    missing = [value for value in range(_ALL_BYTES) if bytes((value,)) not in ranks]
    if missing:
        raise TokenizerConfigError(f"{path}: no token for the byte {missing[0]:#04x}")
    return TiktokenTokenizer(ranks)
