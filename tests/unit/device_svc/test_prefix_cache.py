"""Where requests go and what they find there; chunks of 4 tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from device_svc.engine_api import ModelShape
from device_svc.prefix_cache import Placement, PrefixCache, PrefixMode

SHAPE = ModelShape(64, 63, 4, 1024, argmax=False, features=("history", "logits"))
NO_HISTORY = ModelShape(64, 4, 4, 1024, argmax=False, features=("logits",))


def array(ids: Sequence[int]) -> NDArray[np.int32]:
    return np.array(ids, dtype=np.int32)


class Slots:
    """A cache and which of its slots are free."""

    def __init__(self, count: int, mode: PrefixMode = PrefixMode.EXACT) -> None:
        self.cache = PrefixCache(count, SHAPE, mode)
        self.free = set(range(count))

    def take(self, ids: Sequence[int], key: str | None = None) -> Placement:
        """All prefill of a new request."""
        placement = self.cache.place(array(ids), key, self.free)
        self.free.remove(placement.slot)
        self.cache.hold(placement, array(ids), key)
        self.cache.filled(placement.slot, len(ids))
        return placement

    def end(self, slot: int, ids: Sequence[int], *, prefilled: int) -> int:
        self.free.add(slot)
        return self.cache.release(slot, array(ids), prefilled)

    def run(self, ids: Sequence[int], key: str | None = None) -> Placement:
        placement = self.take(ids, key)
        self.end(placement.slot, ids, prefilled=len(ids))
        return placement


def test_whole_chunks_of_a_finished_prompt_are_taken_in_place() -> None:
    slots = Slots(2)
    assert slots.run(range(10)) == Placement(0, 0, 0)
    assert slots.run([*range(9), 99]) == Placement(0, 0, 8)


def test_the_last_prompt_token_is_always_computed() -> None:
    slots = Slots(1)
    slots.run(range(8))
    assert slots.run(range(8)) == Placement(0, 0, 4)


def test_rows_of_a_running_request_are_copied() -> None:
    slots = Slots(2)
    slots.take(range(10))
    assert slots.take(range(10)) == Placement(1, 0, 8)


def test_a_longer_prefix_is_not_given_up_while_there_is_an_empty_slot() -> None:
    slots = Slots(2)
    slots.run(range(12))
    assert slots.run([*range(4), 50, 51]) == Placement(1, 0, 4)
    assert slots.run(range(12)) == Placement(0, 0, 8)


def test_the_prefix_used_longest_ago_makes_room() -> None:
    slots = Slots(2)
    slots.run([1] * 6)
    slots.run([2] * 6)
    slots.run([1] * 6)
    assert slots.run([3] * 6) == Placement(1, 1, 0)
    assert slots.run([1] * 6).tokens == 4
    assert slots.run([2] * 6).tokens == 0


def test_a_keyed_prefix_stays_while_others_can_go() -> None:
    slots = Slots(2)
    slots.run([1] * 6, "system")
    for number in range(2, 6):
        assert slots.run([number] * 6).slot == 1
    assert slots.run([1] * 6, "system") == Placement(0, 0, 4)
    # Nothing else is free: it has to go.
    slots.take([7] * 6)
    assert slots.run([8] * 6) == Placement(0, 0, 0)


def test_only_the_last_used_copy_of_a_key_is_kept() -> None:
    slots = Slots(3)
    first = slots.take([1] * 6, "system")
    second = slots.take([1] * 5 + [2], "system")
    for placement in (first, second):
        slots.end(placement.slot, [1] * 6, prefilled=6)
    slots.run([3] * 6)
    assert slots.run([4] * 6).slot == first.slot
    assert slots.run([1] * 6, "system") == Placement(second.slot, second.slot, 4)


def test_a_key_outlives_a_request_without_one() -> None:
    slots = Slots(2)
    slots.run([1] * 6, "system")
    assert slots.run([1] * 4 + [9] * 3) == Placement(0, 0, 4)
    slots.run([2] * 6)
    assert slots.run([3] * 6).slot == 1


def test_another_key_does_not_take_a_prefix_over() -> None:
    slots = Slots(2)
    slots.run([1] * 6, "a")
    assert slots.run([1] * 6, "b") == Placement(1, 0, 4)


def test_rows_of_decode_steps_count_in_fast_mode_only() -> None:
    turn = list(range(40))
    for mode, kept in ((PrefixMode.EXACT, 20), (PrefixMode.FAST, 38), (PrefixMode.OFF, 0)):
        slots = Slots(1, mode)
        slots.take(turn[:23])
        assert slots.end(0, turn[:38], prefilled=23) == kept
        assert slots.take(turn) == Placement(0, 0, kept)


def test_a_few_tokens_are_not_worth_an_odd_border() -> None:
    slots = Slots(2, PrefixMode.FAST)
    slots.take(range(30))
    assert slots.take([*range(15), 99]) == Placement(1, 1, 0)


def test_without_history_nothing_is_reused() -> None:
    cache = PrefixCache(1, NO_HISTORY, PrefixMode.EXACT)
    cache.hold(cache.place(array([1, 2, 3, 4]), None, {0}), array([1, 2, 3, 4]), None)
    assert cache.release(0, array([1, 2, 3, 4]), 4) == 0


FAMILY = st.sampled_from([[1] * 20, [1] * 7 + [2] * 13, [3] * 20, list(range(20))])


@pytest.mark.parametrize("mode", [PrefixMode.EXACT, PrefixMode.FAST])
@settings(deadline=None)
@given(data=st.data())
def test_what_is_promised_is_there_is_the_most_and_pinned_goes_last(
    mode: PrefixMode, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, 4))
    slots = Slots(count, mode)
    contents: list[list[int]] = [[] for _ in range(count)]
    keys: list[str | None] = [None] * count
    used: list[int] = [0] * count
    for time in range(1, 30):
        if not slots.free or (len(slots.free) < count and data.draw(st.booleans())):
            slot = data.draw(st.sampled_from(sorted(set(range(count)) - slots.free)))
            kept = slots.end(slot, contents[slot], prefilled=len(contents[slot]))
            contents[slot] = contents[slot][:kept]
            keys[slot] = keys[slot] if kept else None
            used[slot] = 2 * time
            continue
        family, length = data.draw(FAMILY), data.draw(st.integers(1, 20))
        ids = [*family[:length], data.draw(st.integers(0, 9))]
        key = data.draw(st.sampled_from([None, "a", "b"]))
        reusable = [reusable_tokens(content, ids, mode) for content in contents]
        pinned = newest_of_each_key(contents, keys, used, mode)
        free = set(slots.free)
        placement = slots.take(ids, key)
        assert placement.tokens == max(reusable) == reusable[placement.source]
        lost = len(contents[placement.slot]) > placement.tokens or (
            placement.source != placement.slot and contents[placement.slot]
        )
        if lost and placement.slot in pinned:
            assert all(slot in pinned for slot in free)
        used[placement.source] = 2 * time
        if placement.slot != placement.source or not placement.tokens or key is not None:
            keys[placement.slot] = key
        contents[placement.slot] = ids
        used[placement.slot] = 2 * time + 1


def reusable_tokens(content: Sequence[int], ids: Sequence[int], mode: PrefixMode) -> int:
    most = 0
    while most < min(len(content), len(ids) - 1) and content[most] == ids[most]:
        most += 1
    if mode is PrefixMode.EXACT:
        return most // 4 * 4
    return most if most >= 16 else 0


def newest_of_each_key(
    contents: Sequence[Sequence[int]],
    keys: Sequence[str | None],
    used: Sequence[int],
    mode: PrefixMode,
) -> set[int]:
    worth = [len(c) >= 4 if mode is PrefixMode.EXACT else len(c) > 0 for c in contents]
    newest = {}
    for slot in sorted(range(len(keys)), key=lambda slot: used[slot]):
        if keys[slot] is not None and worth[slot]:
            newest[keys[slot]] = slot
    return set(newest.values())
