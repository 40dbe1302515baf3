"""Ids to text, a few at a time, without ever showing half a character.

Whatever way a sequence of ids is cut into pushes, the texts of the pushes and of `finish` join to
exactly what decoding the whole sequence at once gives. The cost of a push depends on its own ids
only.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, Protocol

_REPLACEMENT: Final = "\ufffd"

# A UTF-8 character is at most this long, so a text that still ends in U+FFFD after as many tokens
# does so for good.
_LONGEST_CHARACTER_BYTES: Final = 4


class UnknownId(LookupError):
    """The id is outside the vocabulary or in one of its holes."""

    def __init__(self, token_id: int) -> None:
        super().__init__(f"token id {token_id} is not in the vocabulary")
        self.token_id = token_id


class Detokenizer(Protocol):
    """The decoder of one request."""

    def push(self, ids: Sequence[int]) -> str:
        """The text that `ids` complete. Raises UnknownId, after which the decoder is of no use."""
        ...

    def finish(self) -> str:
        """What is still held back; an incomplete character becomes U+FFFD."""
        ...


def first_unknown(ids: Sequence[int], table: Sequence[object | None]) -> UnknownId:
    """The error for the first id without an entry in `table`."""
    return UnknownId(next(i for i in ids if i >= len(table) or table[i] is None))


class ByteDetokenizer:
    """For vocabularies in which a token is a byte string.

    Invalid UTF-8 becomes one U+FFFD per maximal ill-formed part, as the Unicode standard (chapter
    3, "U+FFFD substitution of maximal subparts"), Python and Rust do it.

    `table` maps ids to bytes, None for a hole, empty for a token that is not shown.
    `strip_first_space` drops one space at the very start of the text.
    """

    __slots__ = ("_pending", "_strip", "_table", "_touched")

    def __init__(
        self,
        table: Sequence[bytes | None],
        *,
        strip_first_space: bool = False,
        prompt_tail: Sequence[int] = (),
    ) -> None:
        self._table = table
        self._strip = strip_first_space
        self._pending = b""
        if prompt_tail:
            # Leaves the bytes of a character that the prompt began and the answer completes.
            self.push(prompt_tail)
            self._strip = strip_first_space and not table[prompt_tail[-1]]
        self._touched = False

    def push(self, ids: Sequence[int]) -> str:
        table = self._table
        try:
            data = b"".join([table[i] for i in ids])  # type: ignore[misc]
        except (IndexError, TypeError):
            raise first_unknown(ids, table) from None
        self._touched = True
        if self._pending:
            data = self._pending + data
        text, used = codecs.utf_8_decode(data, "replace", False)
        self._pending = data[used:]
        return self._stripped(text) if self._strip and text else text

    def finish(self) -> str:
        # Bytes of the prompt alone are not the answer's to show.
        text = self._pending.decode("utf-8", "replace") if self._touched else ""
        self._pending = b""
        return self._stripped(text) if self._strip and text else text

    def _stripped(self, text: str) -> str:
        self._strip = False
        return text.removeprefix(" ")


class PieceDetokenizer:
    """For SentencePiece, equal to `SentencePieceProcessor.decode`.

    `table` maps ids to a text or, for a byte token such as <0xE4>, to the byte's value; None for a
    hole. A run of byte tokens is UTF-8; each of its ill-formed bytes becomes one U+FFFD, and a run
    ends with the next token that is not a byte. The space that marks a word's start is dropped from
    the first token: `spaced` are the ids with such a space, `strip_spaces` says how many leading
    tokens may lose it (0: none, 1: one, otherwise all until something shows).
    """

    __slots__ = ("_at_start", "_pending", "_spaced", "_strip_spaces", "_table")

    def __init__(
        self,
        table: Sequence[str | int | None],
        *,
        spaced: AbstractSet[int],
        strip_spaces: int,
        prompt_tail: Sequence[int] = (),
    ) -> None:
        self._table = table
        self._spaced = spaced
        self._strip_spaces = strip_spaces
        self._at_start = strip_spaces > 0
        self._pending = b""
        if prompt_tail:
            self.push(prompt_tail)
            self._at_start = strip_spaces > 0 and table[prompt_tail[-1]] == ""

    def push(self, ids: Sequence[int]) -> str:
        table = self._table
        shown: list[str] = []
        for token_id in ids:
            entry = table[token_id] if token_id < len(table) else None
            if entry is None:
                raise UnknownId(token_id)
            if isinstance(entry, int):
                text, self._pending = _bytewise(self._pending + bytes((entry,)))
                self._at_start = False
                shown.append(text)
                continue
            if self._pending:
                shown.append(self.finish())
            if self._at_start and entry:
                entry = self._without_space(token_id, entry)
            shown.append(entry)
        return "".join(shown)

    def finish(self) -> str:
        text = _REPLACEMENT * len(self._pending)
        self._pending = b""
        return text

    def _without_space(self, token_id: int, entry: str) -> str:
        if token_id not in self._spaced:
            self._at_start = False
            return entry
        text = entry[1:]
        self._at_start = self._strip_spaces > 1 and not text
        return text


def _bytewise(data: bytes) -> tuple[str, bytes]:
    """Decodes UTF-8, one U+FFFD per ill-formed byte; returns the text and an incomplete tail."""
    shown = ""
    while True:
        try:
            text, used = codecs.utf_8_decode(data, "strict", False)
        except UnicodeDecodeError as error:
            shown += data[: error.start].decode("utf-8") + _REPLACEMENT
            data = data[error.start + 1 :]
        else:
            return shown + text, data[used:]


class WindowDetokenizer:
    """For vocabularies whose decoder is not a table, such as WordPiece.

    Decodes a window of the last tokens twice, without and with the new ones, and shows the
    difference, so that what a decoder does at the start of a text happens once. `decode` must be
    local: a token's text depends on its neighbours only. `skipped` are the ids that are not shown,
    `table` has None for the ids that do not exist.
    """

    __slots__ = ("_decode", "_ids", "_read", "_shown", "_skipped", "_table")

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        *,
        table: Sequence[bytes | None],
        skipped: AbstractSet[int],
        prompt_tail: Sequence[int] = (),
    ) -> None:
        self._decode = decode
        self._table = table
        self._skipped = skipped
        self._ids = self._known(prompt_tail)
        self._read = len(self._ids)
        # The text of `_ids[:_read]`.
        self._shown = decode(self._ids) if self._ids else ""

    def push(self, ids: Sequence[int]) -> str:
        self._ids.extend(self._known(ids))
        held = len(self._ids) - self._read
        if not held:
            return ""
        text = self._decode(self._ids)
        if text.endswith(_REPLACEMENT) and held < _LONGEST_CHARACTER_BYTES:
            return ""
        return self._advance(text)

    def finish(self) -> str:
        return self._advance(self._decode(self._ids)) if len(self._ids) > self._read else ""

    def _known(self, ids: Sequence[int]) -> list[int]:
        table = self._table
        if any(i >= len(table) or table[i] is None for i in ids):
            raise first_unknown(ids, table)
        return [i for i in ids if i not in self._skipped]

    def _advance(self, text: str) -> str:
        new = text[len(self._shown) :]
        if new:
            # The next window starts with the tokens that were new just now.
            del self._ids[: self._read]
            self._shown = self._decode(self._ids)
        self._read = len(self._ids)
        return new
