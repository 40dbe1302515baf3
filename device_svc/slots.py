"""Which sequence owns which slot."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Lease:
    """The right to one slot. Whoever owns the lease closes it; the slot is free from then on."""

    __slots__ = ("_pool", "slot")

    def __init__(self, pool: SlotPool, slot: int) -> None:
        self.slot = slot
        self._pool: SlotPool | None = pool

    def close(self) -> None:
        """Idempotent."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool._give_back(self.slot)


class SlotPool:
    """Slots [0, count). `on_free` is called with each slot that becomes free."""

    def __init__(self, count: int, *, on_free: Callable[[int], None]) -> None:
        if count < 1:
            raise ValueError(f"{count} slots; at least 1 is needed")
        self.count = count
        self._free = list(range(count))
        self._on_free = on_free

    @property
    def free(self) -> int:
        return len(self._free)

    def lease(self) -> Lease | None:
        """The lowest free slot; None when all are taken."""
        if not self._free:
            return None
        return Lease(self, heapq.heappop(self._free))

    def _give_back(self, slot: int) -> None:
        heapq.heappush(self._free, slot)
        self._on_free(slot)
