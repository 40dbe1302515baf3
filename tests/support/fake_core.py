"""An engine whose tokens a person can compute; takes the place of the C++ extension in tests.

The token after a sequence is (sum of all its ids + how many they are) modulo the vocabulary. So
after the prompt 1, 2, 3 come 6 + 3 = 9, then 15 + 4 = 19, then 34 + 5 = 39. When the request
samples (temperature above 0), the n-th completion token is n times the seed more, n from 1: with
seed 5 come 9 + 5 = 14, then 20 + 4 + 10 = 34. A lost, doubled or foreign token changes all that
follow. The logprob of a token is -1, of the n-th best beside it (the ids after it) -1 - n.

Each KV row also has bits that tell how it came about: by which launch (a chunk's start and length,
or a decode step), over which rows before it. `FakeSampled.bits` digests those of all rows, as the
last bits of real logits do: two runs agree on it only if each row was made in the same way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from device_svc.engine_api import (
    ChipReading,
    EngineFailure,
    ModelShape,
    Rows,
    Sampled,
    Sampler,
    Sampling,
    SavedRows,
    SpoiledRow,
    TokenMask,
)
from device_svc.images import Image, VisionShape, check_images, digests


def expected_tokens(
    prompt_ids: Sequence[int],
    count: int,
    *,
    seed: int = 0,
    vocab_size: int = 1024,
    images: Sequence[Image] = (),
) -> list[int]:
    """The `count` tokens that follow the prompt; `seed` is 0 for greedy requests."""
    ids = list(prompt_ids)
    seen = worth(digests(images))
    for number in range(1, count + 1):
        ids.append((sum(ids) + len(ids) + seen + number * seed) % vocab_size)
    return ids[len(prompt_ids) :]


def worth(images: tuple[str, ...]) -> int:
    """What images, by their digests, add to every token's sum."""
    return sum(int(digest[:4], 16) for digest in images)


# Small enough that the digest of a context's rows does not overflow.
_PRIME = 1_000_003
_NAN = -1
_WEIGHTS = np.arange(1, 1 << 16, dtype=np.int64) * 7919 % _PRIME


@dataclass(frozen=True, slots=True)
class FakeSampled:
    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]
    bits: int


class FakeSampler:
    """Remembers how many tokens it has seen, as the real one does."""

    def __init__(self, sampling: Sampling, vocab_size: int) -> None:
        self._seed = 0 if sampling.greedy else sampling.seed
        self._best = sampling.logprobs
        self._vocab_size = vocab_size
        self.generated = 0

    def accept(self, token: int) -> None:
        self.generated += 1

    def draw(self, row: Sequence[int], mask: TokenMask | None = None) -> FakeSampled:
        """row: the sum and the bits of a slot. With a mask the next id in it, -1 if it is empty."""
        token = (row[0] + (self.generated + 1) * self._seed) % self._vocab_size
        if mask is not None:
            allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
            if not len(allowed):
                return FakeSampled(-1, None, (), row[1])
            token = int(allowed[np.searchsorted(allowed, token) % len(allowed)])
        self.generated += 1
        if self._best is None:
            return FakeSampled(token, None, (), row[1])
        top = tuple(((token + n) % self._vocab_size, -1.0 - n) for n in range(1, self._best + 1))
        return FakeSampled(token, -1.0, top, row[1])


class FakeKv:
    """The rows of one slot: ids and bits, int64 [context]; rows at `length` and above are dirt."""

    def __init__(self, context_length: int) -> None:
        self.ids = np.full(context_length, 7777, dtype=np.int64)
        self.bits = np.full(context_length, 7777, dtype=np.int64)
        self.length = 0
        # What the text sees, and images that the slot has looked at.
        self.shown: tuple[str, ...] = ()
        self.encoded: tuple[str, ...] = ()
        # Once there is NaN among the rows, all that is computed from them is NaN.
        self.spoilt = False

    def write(self, ids: NDArray[np.int32], position: int, *, launch: int) -> None:
        """launch: what beside the rows before it decides a new row's bits."""
        end = position + len(ids)
        before = self.digest(position) + worth(self.shown)
        self.ids[position:end] = ids
        self.bits[position:end] = (before * 31 + launch * 17 + self.ids[position:end]) % _PRIME
        self.length = end

    def digest(self, length: int) -> int:
        return int((self.bits[:length] * _WEIGHTS[:length]).sum() % _PRIME)

    def copy(self, source: FakeKv, tokens: int) -> None:
        self.spoilt |= source.spoilt
        self.ids[:tokens] = source.ids[:tokens]
        self.bits[:tokens] = source.bits[:tokens]
        self.length = tokens
        if source is not self and tokens:
            self.shown = self.encoded = source.shown

    def row(self, vocab_size: int) -> tuple[int, int]:
        if self.spoilt:
            return _NAN, 0
        total = int(self.ids[: self.length].sum()) + self.length + worth(self.shown)
        return total % vocab_size, self.digest(self.length)


class FakeEngine:
    """`Engine` over sums. Strict: it raises where the real one does, and on a second thread.

    launch_s: how long a prefill or decode launch sleeps. fail_at: number of the launch that fails,
    counted from 1. before_launch: called at the start of every launch, to hold the engine still.
    history: whether prefill may continue behind tokens. later_tokens: as a bmodel for shared
    prefixes, with a prefix of at most chunk_tokens and so many behind it. refuse_id: a token id
    that decode refuses, as a slot-specific error. spoil_id: a token id whose rows are NaN, as all
    that follow them. decode_variants: rows and length, as of a batched bmodel; `variants_used` is
    what the decode launches took. vision: what images look like; `looked` counts those encoded.
    """

    def __init__(
        self,
        *,
        slots: int = 4,
        decode_rows: int | None = None,
        decode_variants: tuple[tuple[int, int], ...] = (),
        context_length: int = 512,
        chunk_tokens: int = 64,
        later_tokens: int = 0,
        vocab_size: int = 1024,
        argmax: bool = False,
        history: bool = True,
        launch_s: float = 0.0,
        fail_at: int | None = None,
        refuse_id: int | None = None,
        spoil_id: int | None = None,
        before_launch: Callable[[], None] = lambda: None,
        vision: VisionShape | None = None,
    ) -> None:
        self._shape = ModelShape(
            context_length=context_length,
            max_prompt_length=(
                chunk_tokens + later_tokens if later_tokens or not history else context_length - 1
            ),
            prefill_chunk_tokens=chunk_tokens,
            vocab_size=vocab_size,
            argmax=argmax,
            features=tuple(
                sorted(["argmax-head" if argmax else "logits", *(["history"] if history else [])])
            ),
            history_chunk_tokens=later_tokens,
            vision=vision,
        )
        self._kv = [FakeKv(context_length) for _ in range(slots)]
        self._decode_rows = decode_rows or slots
        self._decode_variants = decode_variants
        self.variants_used: list[tuple[int, int]] = []
        self._launch_s = launch_s
        self._fail_at = fail_at
        self._refuse_id = refuse_id
        self._spoil_id = spoil_id
        self.before_launch = before_launch
        self._launches = 0
        self._owner: int | None = None
        self.looked = 0
        self.closed = False

    @property
    def shape(self) -> ModelShape:
        return self._shape

    @property
    def runtime_version(self) -> str:
        return "fake"

    @property
    def slots(self) -> int:
        return len(self._kv)

    @property
    def decode_rows(self) -> int:
        return self._decode_rows

    @property
    def decode_variants(self) -> tuple[tuple[int, int], ...]:
        return self._decode_variants

    @property
    def launches(self) -> int:
        return self._launches

    @property
    def busy_s(self) -> Sequence[float]:
        return ()

    def length(self, slot: int) -> int:
        return self._kv[slot].length

    def prefill(
        self, slot: int, ids: NDArray[np.int32], position: int, *, last: bool
    ) -> Rows | None:
        self._check_thread()
        borders = self._shape.borders
        most = borders.later_tokens if position else borders.first_tokens
        if not 1 <= len(ids) <= most:
            raise ValueError(f"{len(ids)} ids in a chunk of {most}")
        kv = self._kv[slot]
        highest = kv.length if self._shape.history else 0
        if self._shape.history_chunk_tokens:
            highest = min(highest, borders.first_tokens)
        if not 0 <= position <= highest:
            raise ValueError(f"position {position}: expected 0 to {highest}")
        self._check_room(slot, position + len(ids))
        self._launch()
        kv.write(ids, position, launch=position * 1000 + len(ids))
        kv.spoilt |= self._spoil_id in ids.tolist()
        return self._rows((slot,)) if last else None

    def decode(self, slots: Sequence[int], ids: NDArray[np.int32]) -> Rows:
        self._check_thread()
        if not 1 <= len(slots) <= self._decode_rows or len(set(slots)) != len(slots):
            raise ValueError(f"slots {slots} for {self._decode_rows} rows")
        for slot, token in zip(slots, ids.tolist(), strict=True):
            if self._kv[slot].length == 0:
                raise ValueError(f"slot {slot} is empty")
            if token == self._refuse_id:
                raise ValueError(f"id {token} is refused")
            self._check_room(slot, self._kv[slot].length + 1)
        self._launch()
        if self._decode_variants:
            self.variants_used.append(self._smallest_variant(slots))
        for index, slot in enumerate(slots):
            kv = self._kv[slot]
            kv.write(ids[index : index + 1], kv.length, launch=-1)
            kv.spoilt |= self._spoil_id == ids[index]
        return self._rows(slots)

    def _smallest_variant(self, slots: Sequence[int]) -> tuple[int, int]:
        """As the engine chooses it: for all rows up to the last slot, whatever they hold."""
        return next(
            (rows, length)
            for rows, length in sorted(self._decode_variants)
            if rows > max(slots) and all(kv.length <= length for kv in self._kv[:rows])
        )

    def sampler(self, sampling: Sampling, prompt_ids: NDArray[np.int32]) -> Sampler:
        return FakeSampler(sampling, self._shape.vocab_size)

    def sample(
        self, rows: Rows, samplers: Sequence[Sampler], masks: Sequence[TokenMask | None] = ()
    ) -> Sequence[Sampled | SpoiledRow]:
        self._check_thread()
        drawn: list[Sampled | SpoiledRow] = []
        every = masks or [None] * len(samplers)
        for row, sampler, mask in zip(rows.tolist(), samplers, every, strict=True):
            assert isinstance(sampler, FakeSampler)
            drawn.append(SpoiledRow("NaN") if row[0] == _NAN else sampler.draw(row, mask))
        return drawn

    @property
    def states(self) -> None:
        """Its rows are sums: there are no hidden states."""

    def set_images(self, slot: int, images: Sequence[Image]) -> None:
        self._check_thread()
        check_images(images, self._shape.vision, self._shape.context_length)
        kv, wanted = self._kv[slot], digests(images)
        if kv.encoded[: len(wanted)] != wanted:
            self.looked += sum(a != b for a, b in zip_longest(wanted, kv.encoded[: len(wanted)]))
            kv.encoded = wanted
        kv.shown = wanted

    def free(self, slot: int) -> None:
        self._check_thread()
        self._kv[slot].length = 0

    def wipe(self, slot: int) -> None:
        self._check_thread()
        kv = self._kv[slot]
        kv.length = 0
        kv.ids[:] = kv.bits[:] = 7777
        kv.shown = kv.encoded = ()
        kv.spoilt = False

    @property
    def kv_row_bytes(self) -> int:
        return 16

    def copy_prefix(self, source: int, target: int, tokens: int) -> None:
        self._check_thread()
        length = self._kv[source].length
        if not 0 <= tokens <= length:
            raise ValueError(f"{tokens} tokens: slot {source} holds {length}")
        self._kv[target].copy(self._kv[source], tokens)

    def save(self, slot: int) -> SavedRows:
        self._check_thread()
        kv = self._kv[slot]
        rows = np.stack((kv.ids[: kv.length], kv.bits[: kv.length]))
        return SavedRows(kv.length, rows.view(np.uint8).reshape(-1))

    def restore(self, slot: int, saved: SavedRows) -> None:
        self._check_thread()
        rows = saved.data.view(np.int64).reshape(2, saved.tokens)
        kv = self._kv[slot]
        kv.ids[: saved.tokens], kv.bits[: saved.tokens] = rows
        kv.length = saved.tokens

    def chip_reading(self, chip: int) -> ChipReading:
        """Of a chip whose driver measures nothing but the temperature."""
        return ChipReading(chip=chip, temperature_celsius=40.0)

    def close(self) -> None:
        self.closed = True

    def _rows(self, slots: Sequence[int]) -> NDArray[np.int32]:
        rows = [self._kv[slot].row(self._shape.vocab_size) for slot in slots]
        return np.array(rows, dtype=np.int32)

    def _check_room(self, slot: int, length: int) -> None:
        if length > self._shape.context_length:
            raise ValueError(f"slot {slot} would hold {length} of {self._shape.context_length}")

    def _launch(self) -> None:
        self.before_launch()
        self._launches += 1
        if self._launches == self._fail_at:
            raise EngineFailure(f"launch {self._launches} was told to fail")
        if self._launch_s:
            time.sleep(self._launch_s)

    def _check_thread(self) -> None:
        current = threading.get_ident()
        if self._owner is None:
            self._owner = current
        if self._owner != current:
            raise RuntimeError("the engine was used by a second thread")
