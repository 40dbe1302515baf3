"""The open requests of one Detokenize stream; they live and die with it."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizer_svc.answers import formats
from tokenizer_svc.answers.formats import AnswerFormats, AnswerReader
from tokenizer_svc.answers.pieces import CallPiece
from tokenizer_svc.detokenizer import Detokenizer, UnknownId
from tokenizer_svc.metrics import Metrics
from tokenizer_svc.settings import Limits
from tokenizer_svc.stop import StopFinder
from tokenizer_svc.tokenizer import Tokenizer


class Refusal(enum.Enum):
    """Why an item was refused; the names are those of the protocol."""

    UNKNOWN_ID = enum.auto()
    NOT_OPEN = enum.auto()
    BAD_OPEN = enum.auto()
    TOO_MANY = enum.auto()


class ItemRefused(Exception):
    """`forgotten`: no request of that id is open any more."""

    def __init__(self, refusal: Refusal, *, forgotten: bool) -> None:
        super().__init__(refusal.name)
        self.refusal = refusal
        self.forgotten = forgotten


@dataclass(frozen=True, slots=True)
class Opening:
    """How a request wants its text; as an assistant's answer, with `answer`."""

    stops: Sequence[str] = ()
    prompt_tail: Sequence[int] = ()
    keep_special_tokens: bool = False
    min_tokens: int = 0
    answer: formats.Opening | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """`consumed` ids gave `text`, `reasoning` and `calls`.

    `stop_index` is the stop text that ended the request; `answered`: its single call did.
    """

    text: str
    consumed: int
    stop_index: int | None = None
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()
    answered: bool = False

    @property
    def ended(self) -> bool:
        return self.answered or self.stop_index is not None


class _Request:
    """Plain text."""

    __slots__ = ("_decoder", "_finder", "_unmatched_tokens")

    def __init__(self, decoder: Detokenizer, stops: Sequence[str], min_tokens: int) -> None:
        self._decoder = decoder
        self._finder = StopFinder(stops) if stops else None
        # Stop texts are looked for in the text of the tokens after these.
        self._unmatched_tokens = min_tokens

    def push(self, ids: Sequence[int]) -> Shown:
        if self._finder is None:
            return Shown(self._decoder.push(ids), len(ids))
        texts: list[str] = []
        for consumed, token_id in enumerate(ids, start=1):
            text = self._decoder.push((token_id,))
            if self._unmatched_tokens:
                self._unmatched_tokens -= 1
                texts.append(text)
            elif text:
                result = self._finder.push(text)
                texts.append(result.text)
                if result.stop_index is not None:
                    return Shown("".join(texts), consumed, result.stop_index)
        return Shown("".join(texts), len(ids))

    def finish(self) -> Shown:
        text = self._decoder.finish()
        if self._finder is None or self._unmatched_tokens:
            return Shown(text, 0)
        result = self._finder.push(text)
        if result.stop_index is not None:
            return Shown(result.text, 0, result.stop_index)
        return Shown(result.text + self._finder.finish(), 0)


class _Answer(_Request):
    """Text in which reasoning and calls are told apart; stop texts are looked for in all of it."""

    __slots__ = ("_reader",)

    def __init__(
        self, decoder: Detokenizer, stops: Sequence[str], min_tokens: int, reader: AnswerReader
    ) -> None:
        super().__init__(decoder, stops, min_tokens)
        self._reader = reader

    def push(self, ids: Sequence[int]) -> Shown:
        reader = self._reader
        if not reader.single_call and reader.tags.keys().isdisjoint(ids):
            return self._read(super().push(ids))
        consumed = 0
        for token_id in ids:
            shown = super().push((token_id,))
            consumed += 1
            if token_id in reader.tags:
                # A decoder does not show control tokens.
                shown = Shown(shown.text + reader.tags[token_id], consumed, shown.stop_index)
            reader.push(shown.text)
            if shown.stop_index is not None or reader.answered:
                return self._read(Shown("", consumed, shown.stop_index))
        return self._read(Shown("", consumed))

    def finish(self) -> Shown:
        return self._read(super().finish(), last=True)

    def _read(self, shown: Shown, *, last: bool = False) -> Shown:
        reader = self._reader
        reader.push(shown.text)
        if last or shown.stop_index is not None:
            reader.finish()
        piece = reader.take()
        return Shown(
            piece.text,
            shown.consumed,
            shown.stop_index,
            piece.reasoning,
            piece.calls,
            reader.answered and shown.stop_index is None,
        )


class DetokenizeSession:
    """Not thread-safe; `close` when the stream ends. `answers`: how the model writes answers."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        limits: Limits,
        metrics: Metrics,
        *,
        answers: AnswerFormats,
    ) -> None:
        self._tokenizer = tokenizer
        self._answers = answers
        self._tags = answers.tags(tokenizer)
        self._limits = limits
        self._metrics = metrics
        self._requests: dict[str, _Request] = {}

    def __len__(self) -> int:
        """How many requests are open."""
        return len(self._requests)

    def open(self, request_id: str, opening: Opening) -> None:
        """Raises ItemRefused: BAD_OPEN, TOO_MANY or UNKNOWN_ID."""
        limits = self._limits
        if request_id in self._requests:
            raise ItemRefused(Refusal.BAD_OPEN, forgotten=False)
        if len(self._requests) >= limits.open_requests:
            raise ItemRefused(Refusal.TOO_MANY, forgotten=True)
        named = 0 < len(request_id.encode()) <= limits.request_id_bytes
        sizes_bytes = [len(stop.encode()) for stop in opening.stops]
        if (
            not named
            or len(sizes_bytes) > limits.stops
            or not all(0 < size <= limits.stop_bytes for size in sizes_bytes)
            or (opening.answer and len(opening.answer.functions) > limits.functions)
        ):
            raise ItemRefused(Refusal.BAD_OPEN, forgotten=True)
        try:
            self._requests[request_id] = self._made(opening)
        except UnknownId:
            raise ItemRefused(Refusal.UNKNOWN_ID, forgotten=True) from None
        self._metrics.open_requests.inc()

    def push(self, request_id: str, ids: Sequence[int]) -> Shown:
        """After a stop text the request is forgotten. Raises ItemRefused: NOT_OPEN, UNKNOWN_ID."""
        try:
            shown = self._request(request_id).push(ids)
        except UnknownId:
            self.forget(request_id)
            raise ItemRefused(Refusal.UNKNOWN_ID, forgotten=True) from None
        if shown.ended:
            self.forget(request_id)
        return shown

    def finish(self, request_id: str) -> Shown:
        """What was held back; the request is forgotten. Raises ItemRefused: NOT_OPEN."""
        shown = self._request(request_id).finish()
        self.forget(request_id)
        return shown

    def token_bytes(self, ids: Sequence[int]) -> list[bytes]:
        """The tokens' bytes; empty for an id that is not in the vocabulary.

        A bmodel's logits may be longer than the vocabulary, and candidates are not the caller's
        choice.
        """
        return [self._token_bytes(token_id) for token_id in ids]

    def forget(self, request_id: str) -> None:
        if self._requests.pop(request_id, None) is not None:
            self._metrics.open_requests.dec()

    def close(self) -> None:
        """Forgets everything."""
        self._metrics.open_requests.dec(len(self._requests))
        self._requests.clear()

    def _made(self, opening: Opening) -> _Request:
        """Raises UnknownId."""
        tail = list(opening.prompt_tail[-self._limits.prompt_tail_ids :])
        keep = opening.keep_special_tokens
        decoder = self._tokenizer.detokenizer(keep_special_tokens=keep, prompt_tail=tail)
        if opening.answer is None or self._answers == AnswerFormats():
            return _Request(decoder, opening.stops, opening.min_tokens)
        prompt_end = self._tokenizer.decode(tail, keep_special_tokens=True)
        reader = AnswerReader(
            self._answers,
            opening.answer,
            thinks=formats.prompt_thinks(prompt_end),
            tags={} if keep else self._tags,
        )
        return _Answer(decoder, opening.stops, opening.min_tokens, reader)

    def _token_bytes(self, token_id: int) -> bytes:
        try:
            return self._tokenizer.token_bytes(token_id)
        except UnknownId:
            return b""

    def _request(self, request_id: str) -> _Request:
        request = self._requests.get(request_id)
        if request is None:
            raise ItemRefused(Refusal.NOT_OPEN, forgotten=True)
        return request
