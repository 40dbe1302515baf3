"""What every tokenizer format offers to the service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tokenizer_svc.detokenizer import Detokenizer


class TokenizerConfigError(ValueError):
    """The config directory does not hold a usable tokenizer; the text names the file and why."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a rendered conversation.

    In a literal part the texts of control tokens are ordinary text; elsewhere they are the tokens.
    """

    text: str
    literal: bool = False


class Tokenizer(Protocol):
    """Ids are in [0, vocab_size), possibly with holes. Thread-safe after construction.

    Control tokens are the special tokens of a vocabulary: the texts that a chat template uses to
    mark turns, and that a user's text must not be able to forge.
    """

    @property
    def kind(self) -> str:
        """ "huggingface", "tiktoken" or "sentencepiece"."""
        ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def bos_id(self) -> int | None: ...

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end an answer, as far as the tokenizer's own files say."""
        ...

    @property
    def joins_bytes(self) -> bool:
        """Whether the text of a sequence is its tokens' bytes, joined; but for a first space."""
        ...

    @property
    def control_ids(self) -> Mapping[str, int]:
        """The control tokens that `encode` finds in text, by their text."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Ids of a plain text; the texts of control tokens in it become those tokens.

        `add_special_tokens` adds what the model expects around a text (a BOS, a prefix).
        """
        ...

    def encode_parts(self, parts: Sequence[Part]) -> list[int]:
        """Ids of the joined parts, as `encode` without added tokens gives them, but with no
        control token from the literal parts. Raises InvalidArgument when that is impossible.
        """
        ...

    def decode(self, ids: Sequence[int], *, keep_special_tokens: bool) -> str:
        """The text of the ids. Raises UnknownId."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for, a control token's text in UTF-8. Raises UnknownId."""
        ...

    def detokenizer(
        self, *, keep_special_tokens: bool, prompt_tail: Sequence[int] = ()
    ) -> Detokenizer:
        """A fresh incremental decoder, placed after `prompt_tail`. Raises UnknownId."""
        ...
