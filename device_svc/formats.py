"""Output formats compiled to matchers, on a thread of their own.

The llguidance library keeps a parser for each request; what it needs to know of text is the
vocabulary, which a gateway puts here once. Nothing of it runs on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from device_svc.engine_api import ModelShape
from device_svc.format_metrics import FormatMetrics
from device_svc.request import Refused, RejectReason
from device_svc.token_masks import Complete, NextTokens, Stuck
from tpuserve import grammar
from tpuserve.errors import InvalidArgument
from tpuserve.output_format import OutputFormat
from tpuserve.vocabulary import Vocabulary

_CACHED_GRAMMARS: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """What is known once a vocabulary was put. end_bit: the token behind the vocabulary that stands
    for the end of a text; closing_ids: tokens without text, which may end one.
    """

    sha256: str
    tokenizer: LLTokenizer
    end_bit: int
    closing_ids: frozenset[int]


class _Tokens:
    """A vocabulary in the form that LLTokenizer reads."""

    is_tokenizer_wrapper: Final = True
    bos_token_id: Final = None

    def __init__(self, tokens: list[bytes], special_ids: list[int], end_bit: int) -> None:
        self.tokens = tokens
        self.special_token_ids = special_ids
        self.eos_token_id = end_bit

    def __call__(self, text: bytes | str) -> list[int]:
        """Text is not encoded here: the grammars say so (`tpuserve.grammar`)."""
        return []


class GrammarMatcher:
    """`Matcher` over the library. end_ids: the tokens that may end this request's text."""

    def __init__(self, inner: LLMatcher, *, end_bit: int, end_ids: Sequence[int]) -> None:
        self._inner = inner
        self._end_bit = end_bit
        bits: dict[int, int] = {}
        for token in end_ids:
            bits[token // 32] = bits.get(token // 32, 0) | 1 << token % 32
        self._end_words = np.array(list(bits), dtype=np.int64)
        self._end_masks = np.array(list(bits.values()), dtype=np.uint32)

    def next_tokens(self) -> NextTokens:
        width = self._end_bit
        words = np.empty((width + 32) // 32, dtype=np.uint32)
        self._inner.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        if self._inner.is_error():
            return Stuck(f"output_format: {grammar.reason_of(self._inner.get_error())}")
        word, bit = divmod(width, 32)
        whole = bool(words[word] >> np.uint32(bit) & 1)
        words[word] &= np.uint32((1 << bit) - 1)
        mask = words[: (width + 31) // 32]
        if not mask.any():
            return Complete() if whole else Stuck("output_format: no token can follow")
        if whole:
            mask[self._end_words] |= self._end_masks
        return mask

    def accept(self, token: int) -> bool:
        # A token that does not fit shows as an error at the next mask.
        self._inner.consume_token(token)
        return self._inner.is_stopped() and not self._inner.is_error()


class Formats:
    """Lives on the event loop. Raises Refused for formats, InvalidArgument for vocabularies."""

    def __init__(self, shape: ModelShape, metrics: FormatMetrics) -> None:
        self._shape = shape
        self._metrics = metrics
        self._table: _Table | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._pool = grammar.executor("grammar")

    @property
    def vocabulary_sha256(self) -> str:
        return self._table.sha256 if self._table is not None else ""

    def close(self) -> None:
        """Does not wait for what is being compiled."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def put(self, vocabulary: Vocabulary) -> None:
        """Matchers that exist keep the vocabulary that they were made with."""
        size, rows = len(vocabulary.tokens), self._shape.vocab_size
        # Control tokens behind the head's rows stand in prompts only, such as an image's.
        if not size or not set(range(rows, size)).issubset(vocabulary.special_ids):
            raise InvalidArgument(
                f"the vocabulary has {size} tokens, the model's head {rows} rows",
                field="vocabulary.lengths",
            )
        loop = asyncio.get_running_loop()
        self._table = await loop.run_in_executor(self._pool, _table_of, vocabulary, rows)

    def check(self, output_format: OutputFormat) -> None:
        """What can be said at once. Raises Refused."""
        if self._shape.argmax:
            raise Refused(
                RejectReason.UNSUPPORTED,
                "the bmodel's head returns the most likely token only: output_format needs logits",
            )
        if self._table is None:
            raise Refused(RejectReason.UNSUPPORTED, "output_format needs a vocabulary: none is put")
        self._metrics.asked(output_format.kind)

    async def matcher(
        self, output_format: OutputFormat, *, stop_ids: frozenset[int], resume_ids: Sequence[int]
    ) -> GrammarMatcher:
        """A matcher behind `resume_ids`. Raises Refused naming what is wrong."""
        table = self._table
        assert table is not None  # checked
        loop = asyncio.get_running_loop()
        inner = await loop.run_in_executor(
            self._pool, self._advanced, table, output_format, tuple(resume_ids)
        )
        end_ids = sorted(table.closing_ids & stop_ids)
        return GrammarMatcher(inner, end_bit=table.end_bit, end_ids=end_ids)

    # On the pool's thread

    def _advanced(
        self, table: _Table, output_format: OutputFormat, resume_ids: Sequence[int]
    ) -> LLMatcher:
        try:
            lark = grammar.lark_of(output_format)
        except InvalidArgument as error:
            raise Refused(RejectReason.INVALID, error.message) from error
        matcher = self._master(table, lark, output_format).deep_copy()
        taken = matcher.try_consume_tokens(list(resume_ids))
        if taken < len(resume_ids):
            raise Refused(
                RejectReason.INVALID,
                f"resume_ids[{taken}] is {resume_ids[taken]}, which output_format does not allow",
            )
        return matcher

    def _master(self, table: _Table, lark: str, output_format: OutputFormat) -> LLMatcher:
        key = f"{table.sha256} {lark}"
        known = self._compiled.get(key)
        if known is not None:
            self._compiled.move_to_end(key)
            return known
        started_s = time.monotonic()
        matcher = LLMatcher(
            table.tokenizer, LLMatcher.grammar_from_lark(lark), log_level=0, limits=_limits()
        )
        if not matcher.is_error():
            # Copies begin with the states of the lexer that the first mask needs.
            matcher.compute_bitmask()
        self._metrics.compiled(time.monotonic() - started_s)
        if matcher.is_error():
            reason = grammar.reason_of(matcher.get_error())
            raise Refused(RejectReason.INVALID, f"{output_format.kind.value}: {reason}")
        self._compiled[key] = matcher
        if len(self._compiled) > _CACHED_GRAMMARS:
            self._compiled.popitem(last=False)
        return matcher


def _limits() -> LLParserLimits:
    """What one request may cost: at most 100 MB for the lexer's states, and tens of milliseconds
    for a mask. Schemas of 300 optional properties and a thousand choices stay below; the library's
    own limits let one mask take seconds.
    """
    return LLParserLimits(
        max_lexer_states=50_000,
        step_lexer_fuel=50_000,
        step_max_items=20_000,
        max_items_in_row=1500,
        verbose_errors=False,
    )


def _table_of(vocabulary: Vocabulary, rows: int) -> _Table:
    """Ids from the vocabulary's end to the head's have no text, and the one behind is the end."""
    known = vocabulary.tokens[:rows]
    tokens = [*known, *[b""] * (rows - len(known)), b"<end>"]
    control = (*vocabulary.special_ids, *vocabulary.eos_ids)
    closing_ids = frozenset(token for token in control if token < rows)
    wrapper = _Tokens(tokens, [*sorted(closing_ids), rows], rows)
    return _Table(
        sha256=vocabulary.sha256(),
        tokenizer=LLTokenizer(wrapper),  # type: ignore[arg-type]
        end_bit=rows,
        closing_ids=closing_ids,
    )
