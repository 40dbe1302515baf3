"""Which slots of a batched bmodel hold what, so that a decode launch is as small as it can be.

A launch computes rows [0, R) of a shape variant, row = slot, and must be as long as the longest
slot among them, whoever owns it (docs/adr/0005-weights-shared-kv-per-slot.md). So decoding requests
belong into the lowest slots, and long warm slots above them. Rows are moved by copies on the chip,
which keep their bits; one copy costs less than one step of the next larger variant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

DecodeVariant: TypeAlias = tuple[int, int]
"""Rows and length in tokens."""


@dataclass(frozen=True, slots=True, order=True)
class Worth:
    """Of a warm slot; the least is given up first. used: a count that grows with each use."""

    pinned: bool
    used: int


@dataclass(frozen=True, slots=True)
class Warm:
    rows: int
    worth: Worth


@dataclass(frozen=True, slots=True)
class Shift:
    """What source holds, a request or warm rows, goes to target, whose own rows are given up."""

    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Trim:
    """A warm slot keeps at most `rows`."""

    slot: int
    rows: int


@dataclass(slots=True)
class Layout:
    """decoding, prefilling: tokens that the requests hold, by slot. warm: what free slots hold.
    Slots in none of them are empty. `plan` changes it as it goes.
    """

    slots: int
    decoding: dict[int, int]
    prefilling: Mapping[int, int]
    warm: dict[int, Warm] = field(default_factory=dict)

    def plan(self, variants: Sequence[DecodeVariant]) -> Iterator[Shift | Trim]:
        """What to do, in order, before the next decode launch. variants: of the decode nets."""
        rows, length = self._smallest(sorted(variants))
        for source in [slot for slot in sorted(self.decoding) if slot >= rows]:
            target = min(self._homes(rows), key=self._loss)
            if target in self.warm:
                yield from self._shelve(target, rows)
            self.warm.pop(target, None)
            yield Shift(source, target)
            self.decoding[target] = self.decoding.pop(source)
        for slot in [slot for slot in sorted(self.warm) if slot < rows]:
            warm = self.warm[slot]
            if warm.rows > length:
                yield from self._shelve(slot, rows)
            if slot in self.warm and not warm.worth.pinned and warm.rows > length:
                self.warm[slot] = Warm(length, warm.worth)
                yield Trim(slot, length)

    def _smallest(self, variants: Sequence[DecodeVariant]) -> DecodeVariant:
        """The first variant into which the decoding requests can be moved and fit."""
        longest = max(self.decoding.values())
        for rows, length in variants:
            outside = sum(slot >= rows for slot in self.decoding)
            beside = [0, *(n for slot, n in self.prefilling.items() if slot < rows)]
            if outside <= len(self._homes(rows)) and length >= max(longest, *beside):
                return rows, length
        return variants[-1]

    def _homes(self, rows: int) -> list[int]:
        taken = {*self.decoding, *self.prefilling}
        return [slot for slot in range(min(rows, self.slots)) if slot not in taken]

    def _loss(self, slot: int) -> tuple[bool, bool, int, int]:
        """What is lost when the slot is overwritten, least first."""
        warm = self.warm.get(slot)
        worth = warm.worth if warm is not None else Worth(pinned=False, used=0)
        return (warm is not None, worth.pinned, worth.used, slot)

    def _shelve(self, slot: int, rows: int) -> Iterator[Shift]:
        """Move a warm slot above `rows`, to an empty one or one that is worth less; else stay."""
        taken = {*self.decoding, *self.prefilling}
        shelves = [other for other in range(rows, self.slots) if other not in taken]
        shelf = min(shelves, key=self._loss, default=None)
        if shelf is None:
            return
        there = self.warm.get(shelf)
        if there is None or there.worth < self.warm[slot].worth:
            yield Shift(slot, shelf)
            self.warm[shelf] = self.warm.pop(slot)
