from __future__ import annotations

import pytest

from device_svc.slots import SlotPool


def test_the_lowest_free_slot_is_leased_and_comes_back_once() -> None:
    freed: list[int] = []
    pool = SlotPool(3, on_free=freed.append)
    leases = [pool.lease() for _ in range(3)]
    assert [lease.slot for lease in leases if lease] == [0, 1, 2]
    assert pool.lease() is None
    assert leases[1] is not None
    leases[1].close()
    leases[1].close()
    assert (pool.free, freed) == (1, [1])
    again = pool.lease()
    assert again is not None
    assert again.slot == 1
    # The old lease has no right to the slot any more.
    leases[1].close()
    assert pool.free == 0


def test_a_pool_without_slots_is_refused() -> None:
    with pytest.raises(ValueError, match="0 slots"):
        SlotPool(0, on_free=print)
