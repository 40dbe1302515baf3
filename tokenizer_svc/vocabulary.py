"""The tokens of the served tokenizer, for devices that hold a model to an output format."""

from __future__ import annotations

from collections.abc import Iterator

from tokenizer_svc.detokenizer import UnknownId
from tokenizer_svc.loading import LoadedTokenizer
from tokenizer_svc.tokenizer import Tokenizer
from tpuserve.errors import FeatureMissing
from tpuserve.vocabulary import Vocabulary


def vocabulary_of(loaded: LoadedTokenizer) -> Vocabulary:
    """Raises FeatureMissing where the bytes of tokens do not join to the text of their sequence."""
    tokenizer = loaded.tokenizer
    if not tokenizer.joins_bytes:
        raise FeatureMissing(
            "output formats need a tokenizer whose tokens are pieces of the text; this one's "
            "decoder changes them"
        )
    return Vocabulary(
        tokens=list(_token_bytes(tokenizer)),
        special_ids=tuple(sorted(tokenizer.control_ids.values())),
        eos_ids=loaded.eos_ids,
    )


def _token_bytes(tokenizer: Tokenizer) -> Iterator[bytes]:
    for token_id in range(tokenizer.vocab_size):
        try:
            yield tokenizer.token_bytes(token_id)
        except UnknownId:
            yield b""
