"""Which slot a request takes, and which resident rows it need not compute again.

Slots keep what they hold after their request has ended ("warm") until another one needs them. See
docs/adr/0006-exact-prefix-reuse.md for what may be reused without changing a bit.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from device_svc.engine_api import ModelShape
from device_svc.layout import Warm, Worth

Ids: TypeAlias = NDArray[np.int32]
Images: TypeAlias = tuple[str, ...]

# Fewer than these are not worth a copy and a launch at an odd position.
_LEAST_FAST_TOKENS: Final = 16


class PrefixMode(enum.Enum):
    """EXACT: rows that a cold run would have, bit for bit. FAST: also rows of decode steps and of
    broken chunks, whose last bits differ. OFF: nothing is kept.
    """

    EXACT = "exact"
    FAST = "fast"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Placement:
    """Take `slot`; its rows [0, tokens) are those of `source`, which may be the same slot."""

    slot: int
    source: int
    tokens: int


@dataclass(frozen=True, slots=True)
class KeptPrefix:
    """A slot holds rows of these ids, int32 [n], of which all may be reused."""

    slot: int
    ids: Ids
    key: str | None


@dataclass(slots=True)
class _Content:
    """Rows [0, rows) of a slot may be reused; they hold ids[:rows]. used: a count, for LRU.
    images: digests of those that the rows were computed with; all rows depend on all of them.
    """

    ids: Ids
    rows: int = 0
    key: str | None = None
    used: int = 0
    images: Images = ()


class PrefixCache:
    """Knows the tokens of every slot. Pure: the caller copies the rows."""

    def __init__(self, slots: int, shape: ModelShape, mode: PrefixMode) -> None:
        self._mode = mode if shape.history else PrefixMode.OFF
        self._borders = shape.borders
        # Prefill may not continue behind the last position that a cold run's chunks begin at.
        self._last_border = self._borders.at_or_below(shape.max_prompt_length - 1)
        self._contents = [_Content(np.empty(0, dtype=np.int32)) for _ in range(slots)]
        self._clock = 0

    def place(
        self, ids: Ids, key: str | None, free: Collection[int], images: Images = ()
    ) -> Placement:
        """Where a request with these ids to prefill goes; `free` slots, at least one."""
        shared = [
            self._shared(content, ids) if content.images == images else 0
            for content in self._contents
        ]
        # A free slot before one in use, for its rows may be taken as they are.
        source = max(range(len(shared)), key=lambda slot: (shared[slot], slot in free))
        tokens = shared[source]
        pinned = self._pinned()
        if tokens and source in free and self._loses_nothing(source, tokens, key, pinned):
            return Placement(source, source, tokens)
        slot = self._least_useful(free, pinned)
        return Placement(slot, source if tokens else slot, tokens)

    @property
    def kept(self) -> list[KeptPrefix]:
        """What could be reused in other slots, last used first; not rows that images are part of,
        since these do not travel with the rows."""
        used = sorted(enumerate(self._contents), key=lambda item: -item[1].used)
        return [
            KeptPrefix(slot, content.ids[: content.rows], content.key)
            for slot, content in used
            if content.rows and not content.images
        ]

    def adopt(self, slot: int, ids: Ids, key: str | None) -> int:
        """A free slot gets rows of `ids` that were made elsewhere; says how many are of use."""
        rows = self._reusable(min(len(ids), self._last_border))
        if rows:
            self._contents[slot] = _Content(ids[:rows], rows, key, self._tick())
        return rows

    def least_useful(self, free: Collection[int]) -> int:
        """The free slot to overwrite: an empty one, else by last use, pinned ones last."""
        return self._least_useful(free, self._pinned())

    def hold(self, placement: Placement, ids: Ids, key: str | None, images: Images = ()) -> None:
        """A request that prefills `ids` takes the slot."""
        source = self._contents[placement.source]
        source.used = self._tick()
        if key is None and placement.slot == placement.source and placement.tokens:
            key = source.key
        self._contents[placement.slot] = _Content(ids, placement.tokens, key, self._tick(), images)

    def hold_restored(self, slot: int, ids: Ids, key: str | None, images: Images = ()) -> None:
        """A preempted request takes the slot; its rows come from elsewhere."""
        self._contents[slot] = _Content(ids, 0, key, self._tick(), images)

    def filled(self, slot: int, rows: int) -> None:
        """Prefill has put rows [0, rows) of what the slot's request brought."""
        self._contents[slot].rows = self._reusable(rows)

    def release(self, slot: int, ids: Ids, prefilled: int) -> int:
        """The request is over: the slot holds `ids`, the first of them by prefill.

        Returns how many rows are worth keeping.
        """
        rows = self._reusable(len(ids) if self._mode is PrefixMode.FAST else prefilled)
        held = self._contents[slot]
        key = held.key if rows else None
        self._contents[slot] = _Content(ids[:rows], rows, key, self._tick(), held.images)
        return rows

    def rows(self, slot: int) -> int:
        return self._contents[slot].rows

    def warm(self, free: Collection[int]) -> dict[int, Warm]:
        """Of the free slots, those that hold something."""
        pinned = self._pinned()
        return {
            slot: Warm(self._contents[slot].rows, Worth(slot in pinned, self._contents[slot].used))
            for slot in free
            if self._contents[slot].rows
        }

    def shift(self, source: int, target: int) -> None:
        """The target holds what the source held, which is empty."""
        self._contents[target] = self._contents[source]
        self._contents[source] = _Content(np.empty(0, dtype=np.int32))

    def trim(self, slot: int, rows: int) -> int:
        """Give up what is behind `rows`; returns how many are left."""
        content = self._contents[slot]
        content.rows = self._reusable(min(rows, content.rows))
        content.ids = content.ids[: content.rows]
        return content.rows

    def _reusable(self, rows: int) -> int:
        if self._mode is PrefixMode.OFF:
            return 0
        return rows if self._mode is PrefixMode.FAST else self._borders.at_or_below(rows)

    def _shared(self, content: _Content, ids: Ids) -> int:
        # The last token is always computed: its logits are what the request is after.
        most = min(content.rows, len(ids) - 1, self._last_border)
        if most < 1:
            return 0
        differing = np.flatnonzero(content.ids[:most] != ids[:most])
        tokens = self._reusable(int(differing[0]) if len(differing) else most)
        return 0 if self._mode is PrefixMode.FAST and tokens < _LEAST_FAST_TOKENS else tokens

    def _loses_nothing(
        self, slot: int, tokens: int, key: str | None, pinned: Collection[int]
    ) -> bool:
        content = self._contents[slot]
        return content.rows == tokens and (slot not in pinned or key in (None, content.key))

    def _pinned(self) -> Collection[int]:
        """Of each key the slot that was used last; its other copies are as good as any."""
        newest: dict[str, int] = {}
        for slot, content in enumerate(self._contents):
            if content.key is None or not content.rows:
                continue
            other = newest.get(content.key)
            if other is None or self._contents[other].used < content.used:
                newest[content.key] = slot
        return frozenset(newest.values())

    def _least_useful(self, free: Collection[int], pinned: Collection[int]) -> int:
        def usefulness(slot: int) -> tuple[bool, bool, int, int]:
            content = self._contents[slot]
            return (content.rows > 0, slot in pinned, content.used if content.rows else 0, slot)

        return min(free, key=usefulness)

    def _tick(self) -> int:
        self._clock += 1
        return self._clock
