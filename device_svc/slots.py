"""Which sequence owns which slot."""

from __future__ import annotations

from collections.abc import Collection


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
    """Slots [0, count)."""

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"{count} slots; at least 1 is needed")
        self.count = count
        self._free = set(range(count))

    @property
    def free(self) -> Collection[int]:
        return self._free

    def lease(self, slot: int) -> Lease:
        """Take a free slot. Raises KeyError when it is not free."""
        self._free.remove(slot)
        return Lease(self, slot)

    def _give_back(self, slot: int) -> None:
        self._free.add(slot)
