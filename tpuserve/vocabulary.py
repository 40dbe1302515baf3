"""The tokens of a tokenizer, free of any wire format."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """As `tpuserve.v1.Vocabulary`. tokens: the bytes of each id, empty where an id has no text; of
    a control token its name. special_ids: control tokens, ascending. eos_ids: what ends an answer.
    """

    tokens: Sequence[bytes]
    special_ids: tuple[int, ...]
    eos_ids: tuple[int, ...]

    def sha256(self) -> str:
        """Over the length and bytes of each token, then both lists of ids; in hex."""
        digest = hashlib.sha256()
        for token in self.tokens:
            digest.update(len(token).to_bytes(4, "little"))
            digest.update(token)
        for ids in (self.special_ids, self.eos_ids):
            digest.update(b"".join(i.to_bytes(4, "little") for i in (len(ids), *ids)))
        return digest.hexdigest()
