from __future__ import annotations

import pytest

from device_svc.slots import SlotPool


def test_a_slot_is_leased_to_one_and_comes_back_once() -> None:
    pool = SlotPool(3)
    lease = pool.lease(1)
    assert (lease.slot, set(pool.free)) == (1, {0, 2})
    with pytest.raises(KeyError):
        pool.lease(1)
    lease.close()
    again = pool.lease(1)
    # The old lease has no right to the slot any more.
    lease.close()
    assert set(pool.free) == {0, 2}
    again.close()
    assert set(pool.free) == {0, 1, 2}


def test_a_pool_without_slots_is_refused() -> None:
    with pytest.raises(ValueError, match="0 slots"):
        SlotPool(0)
