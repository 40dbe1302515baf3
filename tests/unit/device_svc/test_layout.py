"""Slots of batched bmodels: which decode variants are launched when there are warm slots."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device_svc.engine import CoreEngine
from device_svc.layout import DecodeVariant, Layout, Shift, Trim, Warm, Worth
from device_svc.prefix_cache import PrefixMode
from device_svc.scheduler import Policy
from tests.support.fake_core import FakeEngine, expected_tokens
from tests.support.simchip import BATCHED, completion, write_bmodel
from tests.support.simchip_abi import Simchip
from tests.support.stepping import Driver
from tests.unit.simchip.conftest import library  # noqa: F401
from tpuserve.bmodel import memory_budget, read

VARIANTS = ((8, 512), (8, 128), (4, 512), (4, 128), (1, 512), (1, 128))


def warm(rows: int, used: int = 1, *, pinned: bool = False) -> Warm:
    return Warm(rows, Worth(pinned, used))


def plan(layout: Layout) -> list[Shift | Trim]:
    return list(layout.plan(VARIANTS))


def test_what_is_in_order_stays() -> None:
    assert plan(Layout(8, {0: 10, 1: 10}, {2: 500}, {3: warm(128), 7: warm(500)})) == []


def test_a_lone_request_goes_to_the_first_slot() -> None:
    assert plan(Layout(8, {5: 10}, {}, {})) == [Shift(5, 0)]
    # What is warm there goes to an empty slot first.
    assert plan(Layout(8, {5: 10}, {}, {0: warm(64)})) == [Shift(0, 1), Shift(5, 0)]


def test_nobody_moves_where_the_rows_would_be_the_same() -> None:
    assert plan(Layout(8, {1: 10, 3: 10}, {}, {})) == []
    # Prefilling requests keep their slots: two rows are not to be had below four.
    assert plan(Layout(8, {4: 10}, {0: 5, 1: 5, 2: 5, 3: 5}, {})) == []
    assert plan(Layout(8, {4: 10, 5: 10}, {0: 5, 1: 5, 2: 5}, {})) == []


def test_long_warm_slots_go_up_or_over_what_is_worth_less_or_are_cut() -> None:
    assert plan(Layout(8, {0: 10, 1: 10}, {}, {2: warm(300)})) == [Shift(2, 4)]
    full = {slot: warm(64, used=slot) for slot in range(4, 8)}
    assert plan(Layout(8, {0: 10, 1: 10}, {}, {2: warm(300, used=9), **full})) == [Shift(2, 4)]
    assert plan(Layout(8, {0: 10, 1: 10}, {}, {2: warm(300, used=2), **full})) == [Trim(2, 128)]
    pinned = {2: warm(300, used=2, pinned=True)}
    assert plan(Layout(8, {0: 10, 1: 10}, {}, {**pinned, **full})) == [Shift(2, 4)]
    everyone = dict.fromkeys(range(5), 10)
    assert plan(Layout(8, everyone, {}, {6: warm(300), 7: warm(100)})) == [Trim(6, 128)]
    assert plan(Layout(8, everyone, {}, {6: warm(300, pinned=True)})) == []


def test_a_long_request_makes_room_for_warm_ones() -> None:
    assert plan(Layout(8, {0: 400, 1: 10}, {}, {2: warm(300)})) == []


def smallest(layout: Layout) -> DecodeVariant:
    """What the engine would launch."""
    held = {**layout.decoding, **layout.prefilling}
    held |= {slot: content.rows for slot, content in layout.warm.items()}
    return next(
        (rows, length)
        for rows, length in sorted(VARIANTS)
        if rows > max(layout.decoding) and all(held.get(s, 0) <= length for s in range(rows))
    )


def test_random_layouts_never_cost_more_and_requests_are_never_lost() -> None:
    draw = random.Random(5)
    for _ in range(3000):
        slots = list(range(8))
        draw.shuffle(slots)
        cut = sorted(draw.randint(1, 8) for _ in range(3))
        lengths = {slot: draw.randint(1, 512) for slot in slots}
        layout = Layout(
            8,
            {slot: lengths[slot] for slot in slots[: cut[0]]},
            {slot: lengths[slot] for slot in slots[cut[0] : cut[1]]},
            {s: warm(lengths[s], s, pinned=draw.random() < 0.2) for s in slots[cut[1] : cut[2]]},
        )
        before, decoding = smallest(layout), sorted(layout.decoding.values())
        plan(layout)
        assert smallest(layout) <= before
        assert sorted(layout.decoding.values()) == decoding
        assert len({*layout.decoding, *layout.prefilling, *layout.warm}) == (
            len(layout.decoding) + len(layout.prefilling) + len(layout.warm)
        )
        if not layout.prefilling and not any(w.worth.pinned for w in layout.warm.values()):
            # The very best for what runs.
            rows, length = smallest(layout)
            assert rows == min(r for r, _ in VARIANTS if r >= len(decoding))
            assert length == min(n for _, n in VARIANTS if n >= max(decoding))
        assert plan(layout) == []


def test_short_requests_run_small_beside_long_warm_prompts() -> None:
    engine = FakeEngine(slots=8, decode_variants=VARIANTS)
    stepping = Driver(engine)
    for key in range(8):
        stepping.submit(key, range(key * 7, key * 7 + 300 + key), max_tokens=2)
    stepping.run()
    engine.variants_used.clear()
    for key in range(8, 14):
        stepping.submit(key, [key, 1, 2], max_tokens=12)
        stepping.run()
        assert stepping.ids(key) == expected_tokens([key, 1, 2], 12)
    assert set(engine.variants_used) == {(1, 128)}
    # Of the long prompts all are still there that nobody had to overwrite.
    stepping.submit(20, [*range(49, 49 + 307), 5], max_tokens=1)
    stepping.run()
    assert stepping.accepted[-1].cached_tokens == 256


def test_who_is_left_behind_in_a_high_slot_moves_down() -> None:
    engine = FakeEngine(slots=8, decode_variants=VARIANTS)
    stepping = Driver(engine, policy=Policy(PrefixMode.OFF))
    for key in range(8):
        stepping.submit(key, [key, 1], max_tokens=40 if key == 7 else 3)
    stepping.run()
    assert stepping.ids(7) == expected_tokens([7, 1], 40)
    assert engine.variants_used == [(8, 128)] * 2 + [(1, 128)] * 37


@pytest.mark.usefixtures("library")
def test_on_a_chip_the_warm_slots_are_not_read(
    library: Callable[[str], Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    """The simulated chip counts what it reads: of one row and the short variant, layer by layer."""
    path = library("[model]\nvocab_size = 64")
    bmodel = write_bmodel(tmp_path / "m.bmodel", BATCHED)
    memory = memory_budget(read(bmodel))
    engine: Any = CoreEngine(
        (bmodel,), path.parent, emulator=False, chips=(0,), slots=4, memories=(memory,)
    )
    stepping = Driver(engine)
    chip = Simchip(path)
    for key in range(4):
        stepping.submit(key, [key, *range(20, 40)], max_tokens=2)
    stepping.run()
    row_bytes = BATCHED.kv_heads * BATCHED.head_dim * 2
    for key in (5, 6):
        stepping.submit(key, [key, 1], max_tokens=1)
        stepping.run()
        before = chip.counter("kv_bytes")
        stepping.submit(key + 10, [key, 2], max_tokens=11)
        stepping.run()
        assert stepping.ids(key + 10) == completion([key, 2], 11, 64)
        assert chip.counter("kv_bytes") - before == 10 * BATCHED.layers * 2 * 16 * row_bytes
    assert chip.broken_rules == 0
    engine.close()
