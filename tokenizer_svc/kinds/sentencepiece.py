"""SentencePiece models (`tokenizer.model`), with tokens added beside the model as Llama does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sentencepiece

from tokenizer_svc.config_files import ConfigFiles
from tokenizer_svc.control import ControlTexts
from tokenizer_svc.detokenizer import PieceDetokenizer, UnknownId
from tokenizer_svc.kinds.parts import encode_between
from tokenizer_svc.tokenizer import Part, TokenizerConfigError
from tpuserve.errors import InvalidArgument

# How SentencePiece writes a space.
_SPACE: Final = "\u2581"


@dataclass(frozen=True, slots=True)
class Additions:
    """What stands beside a SentencePiece model.

    `control_ids` are control tokens and `added_ids` other tokens found in texts, by text; both may
    be pieces of the model or lie beyond it. `before` and `after` surround a plain text when special
    tokens are wanted. `control_in_text`: whether control texts in a plain text are the tokens.
    """

    control_ids: Mapping[str, int]
    added_ids: Mapping[str, int]
    before: tuple[int, ...]
    after: tuple[int, ...]
    bos_id: int | None
    eos_ids: tuple[int, ...]
    control_in_text: bool = True


class SentencePieceTokenizer:
    """Each text between two added tokens is encoded on its own, with a space in front of it."""

    kind: Final = "sentencepiece"
    joins_bytes: Final = True

    def __init__(
        self, processor: sentencepiece.SentencePieceProcessor, additions: Additions
    ) -> None:
        self._processor = processor
        self._additions = additions
        self.control_ids = additions.control_ids
        self.bos_id = additions.bos_id
        self.eos_ids = additions.eos_ids
        outside = {**additions.added_ids, **additions.control_ids}
        size = processor.get_piece_size()
        self.vocab_size = max(size, *(i + 1 for i in outside.values()), 1)
        self._outside = ControlTexts(outside)
        self._outside_ids = outside
        self._forbidden = frozenset(additions.control_ids.values())
        pieces = [str(processor.id_to_piece(i)) for i in range(size)]
        self._spaced = frozenset(i for i, piece in enumerate(pieces) if piece.startswith(_SPACE))
        self._table = self._full_table(pieces, outside)
        self._shown_table = [
            "" if i in self._forbidden else entry for i, entry in enumerate(self._table)
        ]
        self._strip_spaces = _strip_spaces(processor)

    def _full_table(self, pieces: list[str], outside: Mapping[str, int]) -> list[str | int | None]:
        processor = self._processor
        table: list[str | int | None] = [None] * self.vocab_size
        for i, piece in enumerate(pieces):
            if processor.is_byte(i):
                table[i] = int(piece[1:-1], 16)
            elif processor.is_unknown(i):
                table[i] = str(processor.decode([i]))
            else:
                table[i] = piece.replace(_SPACE, " ")
        for text, i in outside.items():
            table[i] = text
        return table

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        ids = self.encode_parts([Part(text, literal=not self._additions.control_in_text)])
        if not add_special_tokens:
            return ids
        return [*self._additions.before, *ids, *self._additions.after]

    def encode_parts(self, parts: Sequence[Part]) -> list[int]:
        return encode_between(
            parts,
            control=self._outside,
            control_ids=self._outside_ids,
            encode_ordinary=self._encode_ordinary,
        )

    def _encode_ordinary(self, text: str) -> list[int]:
        if not text:
            return []
        ids: list[int] = self._processor.encode(text)
        forged = self._forbidden.intersection(ids)
        if forged:
            # The model itself finds user-defined symbols in any text.
            found = self._table[min(forged)]
            raise InvalidArgument(f"a message contains {found!r}, which cannot be ordinary text")
        return ids

    def decode(self, ids: Sequence[int], *, keep_special_tokens: bool) -> str:
        decoder = self.detokenizer(keep_special_tokens=keep_special_tokens)
        return decoder.push(ids) + decoder.finish()

    def token_bytes(self, token_id: int) -> bytes:
        entry = self._table[token_id] if token_id < self.vocab_size else None
        if entry is None:
            raise UnknownId(token_id)
        return bytes((entry,)) if isinstance(entry, int) else entry.encode("utf-8")

    def detokenizer(
        self, *, keep_special_tokens: bool, prompt_tail: Sequence[int] = ()
    ) -> PieceDetokenizer:
        return PieceDetokenizer(
            self._table if keep_special_tokens else self._shown_table,
            spaced=self._spaced,
            strip_spaces=self._strip_spaces,
            prompt_tail=prompt_tail,
        )


def load_processor(path: Path) -> sentencepiece.SentencePieceProcessor:
    """Raises TokenizerConfigError."""
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.load(str(path))
    except (OSError, RuntimeError) as error:
        raise TokenizerConfigError(f"{path} is not a SentencePiece model: {error}") from error
    return processor


def load(path: Path, files: ConfigFiles) -> SentencePieceTokenizer:
    """A model in Llama's manner. Raises TokenizerConfigError."""
    if files.tokenizer.get("legacy") is False:
        raise TokenizerConfigError(
            f"{files.path / 'tokenizer_config.json'}: legacy is false, which a tokenizer.model"
            " alone does not support; provide tokenizer.json"
        )
    processor = load_processor(path)
    known = {
        str(processor.id_to_piece(i)): i
        for i in range(processor.get_piece_size())
        if not processor.is_byte(i) and not processor.is_unknown(i)
    }
    ids = {**known, **files.added}
    control = {piece: i for piece, i in known.items() if processor.is_control(i)}
    named = [*files.special.values(), *files.additional, *files.added_control]
    control.update({text: ids[text] for text in named if text in ids})
    bos_id = control.get(files.special.get("bos_token", ""), processor.bos_id())
    eos_id = control.get(files.special.get("eos_token", ""), processor.eos_id())
    wants = files.tokenizer.get
    return SentencePieceTokenizer(
        processor,
        Additions(
            control_ids=control,
            added_ids=files.added,
            before=(bos_id,) if wants("add_bos_token", True) and bos_id >= 0 else (),
            after=(eos_id,) if wants("add_eos_token", False) and eos_id >= 0 else (),
            bos_id=bos_id if bos_id >= 0 else None,
            eos_ids=(eos_id,) if eos_id >= 0 else (),
        ),
    )


def _strip_spaces(processor: sentencepiece.SentencePieceProcessor) -> int:
    """Which leading spaces decoding drops follows from what encoding adds or removes."""
    if _SPACE * 2 not in str(processor.normalize("a  a")):
        return 2
    return 1 if str(processor.normalize("a")).startswith(_SPACE) else 0
