"""The open requests of one Detokenize stream; they live and die with it."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

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
    """How a request wants its text."""

    stops: Sequence[str] = ()
    prompt_tail: Sequence[int] = ()
    keep_special_tokens: bool = False
    min_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Shown:
    """`consumed` ids gave `text`; `stop_index` is the stop text that ended the request."""

    text: str
    consumed: int
    stop_index: int | None = None


class _Request:
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


class DetokenizeSession:
    """Not thread-safe; `close` when the stream ends."""

    def __init__(self, tokenizer: Tokenizer, limits: Limits, metrics: Metrics) -> None:
        self._tokenizer = tokenizer
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
        ):
            raise ItemRefused(Refusal.BAD_OPEN, forgotten=True)
        try:
            decoder = self._tokenizer.detokenizer(
                keep_special_tokens=opening.keep_special_tokens,
                prompt_tail=list(opening.prompt_tail[-limits.prompt_tail_ids :]),
            )
        except UnknownId:
            raise ItemRefused(Refusal.UNKNOWN_ID, forgotten=True) from None
        self._requests[request_id] = _Request(decoder, opening.stops, opening.min_tokens)
        self._metrics.open_requests.inc()

    def push(self, request_id: str, ids: Sequence[int]) -> Shown:
        """After a stop text the request is forgotten. Raises ItemRefused: NOT_OPEN, UNKNOWN_ID."""
        try:
            shown = self._request(request_id).push(ids)
        except UnknownId:
            self.forget(request_id)
            raise ItemRefused(Refusal.UNKNOWN_ID, forgotten=True) from None
        if shown.stop_index is not None:
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
