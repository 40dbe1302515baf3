"""Decode nets for four slots on the emulator: right, and the same bits whoever shares a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from device_svc import _core
from tests.golden import models
from tests.golden.conftest import OpenEngine
from tests.golden.models import Ids, Logits, decode, start
from tests.golden.reference import Reference
from tests.golden.test_logits import assert_close, random_ids

SLOTS = 4
# Of the prompts: some fit into the shortest decode variant, one takes two prefill chunks.
LENGTHS = (5, 70, 20, 64)

Rows = Sequence[NDArray[np.float32] | NDArray[np.int32]]


@pytest.fixture
def open_batch(open_engine: OpenEngine) -> Callable[..., _core.Engine]:
    """Opens the batch; `deterministic` as the engine's."""

    def open_one(*, deterministic: bool = True) -> _core.Engine:
        return open_engine(models.BATCH4, SLOTS, deterministic=deterministic)

    return open_one


@pytest.fixture
def engine(open_batch: Callable[..., _core.Engine]) -> _core.Engine:
    return open_batch()


def prompt(number: int, vocab_size: int = 1024) -> Ids:
    return random_ids(LENGTHS[number], vocab_size, seed=100 + number)


def prefill(engine: _core.Engine, slot: int, ids: Ids) -> Logits:
    chunk = engine.spec.prefill_chunk
    for begin in range(0, len(ids), chunk):
        row = engine.prefill(slot, ids[begin : begin + chunk], begin)
    assert row is not None
    return row.astype(np.float32)


def run(
    engine: _core.Engine, slot: int, steps: int, *, beside: Mapping[int, range]
) -> list[Logits]:
    """The first request's rows in `slot` over `steps` steps with forced tokens.

    beside: the steps in which each of other slots takes part; it joins with a prompt of its own
    and its slot is free after them.
    """
    rows = [prefill(engine, slot, prompt(0))]
    tokens = random_ids(steps, engine.spec.vocab_size, seed=7)
    for step in range(steps):
        for other, part in beside.items():
            if step == part.start:
                prefill(engine, other, prompt(other or 3))
            if step == part.stop:
                engine.free(other)
        others = [other for other, part in beside.items() if step in part]
        ids = np.array([*(step + other for other in others), tokens[step]], np.int32)
        rows.append(engine.decode([*others, slot], ids)[-1].astype(np.float32))
    for taken in (slot, *beside):
        engine.free(taken)
    return rows


def largest_difference(a: Rows, b: Rows) -> float:
    return max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True))


def assert_same_bits(a: Rows, b: Rows) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def test_what_discovery_finds(engine: _core.Engine, library: _core.Library) -> None:
    spec = engine.spec
    assert spec.decode_rows == SLOTS
    assert spec.decode_variants == sorted(spec.decode_variants)
    assert spec.decode_variants[-1] == (SLOTS, spec.context_length)
    assert {rows for rows, _ in spec.decode_variants} == {1, SLOTS}
    assert "batched-decode" in spec.features
    with pytest.raises(ValueError, match=r"slots = 5: .*batch4.bmodel .* batch of 4"):
        _core.Engine(library, [str(models.BATCH4)], slots=5)


@pytest.mark.parametrize("deterministic", [True, False])
def test_any_slots_in_any_order(
    deterministic: bool, open_batch: Callable[..., _core.Engine], reference: Reference
) -> None:
    engine = open_batch(deterministic=deterministic)
    sequences = [start(engine, reference, slot) for slot in range(SLOTS)]
    for number, sequence in enumerate(sequences):
        assert_close(*sequence.prefill(prompt(number, reference.vocab_size)))
    steps = [[0, 1, 2, 3], [3], [0], [1, 3], [2, 0], [3, 2, 1, 0], [2], [0, 1]]
    for number, slots in enumerate(steps):
        ids = random_ids(len(slots), reference.vocab_size, seed=number)
        for row, expected in decode([sequences[slot] for slot in slots], ids):
            assert_close(row, expected)


def test_one_launch_of_each_net_serves_all_slots(engine: _core.Engine) -> None:
    for slot in range(SLOTS):
        prefill(engine, slot, prompt(slot))
    before = engine.launches
    engine.decode(range(SLOTS), np.zeros(SLOTS, np.int32))
    assert engine.launches - before == engine.spec.layers + 2  # embedding, layers, head


@pytest.mark.parametrize("slot", range(SLOTS))
def test_neighbours_change_no_bit(slot: int, engine: _core.Engine) -> None:
    alone = run(engine, slot, 8, beside={})
    others = [(slot + 1 + i) % SLOTS for i in range(SLOTS - 1)]
    always = range(8)
    assert_same_bits(run(engine, slot, 8, beside={others[0]: always}), alone)
    assert_same_bits(run(engine, slot, 8, beside=dict.fromkeys(others, always)), alone)
    joining = {others[0]: range(1, 4), others[1]: range(2, 8), others[2]: range(3, 6)}
    assert_same_bits(run(engine, slot, 8, beside=joining), alone)


def test_the_slot_changes_no_bit(engine: _core.Engine) -> None:
    first = run(engine, 0, 4, beside={})
    for slot in range(1, SLOTS):
        assert_same_bits(run(engine, slot, 4, beside={}), first)


def test_between_shape_variants(open_batch: Callable[..., _core.Engine]) -> None:
    """Other kernels may round otherwise; prints how far logits move, and whether the best token
    does (`pytest -rP`)."""
    pinned = run(open_batch(), 0, 40, beside={})
    ladder = open_batch(deterministic=False)
    alone = run(ladder, 0, 40, beside={})
    # The neighbours' lengths ask for longer variants, their slots for wider ones.
    shared = run(ladder, 0, 40, beside={1: range(2, 20), 2: range(10, 30), 3: range(25, 35)})
    for name, rows in (("alone", alone), ("shared", shared)):
        difference = largest_difference(rows, pinned)
        changed = sum(int(x.argmax() != y.argmax()) for x, y in zip(rows, pinned, strict=True))
        print(f"{name}: logits differ by at most {difference:g}, {changed} best tokens changed")
        assert min(models.cosine(x, y) for x, y in zip(rows, pinned, strict=True)) >= 0.99999
        # Prefill has one variant.
        np.testing.assert_array_equal(rows[0], pinned[0])


@pytest.mark.parametrize("deterministic", [True, False])
def test_rows_of_idle_slots_stay(
    deterministic: bool, open_batch: Callable[..., _core.Engine]
) -> None:
    """Each launch writes a row above its length into every slot that it computes."""
    engine = open_batch(deterministic=deterministic)
    for slot in range(SLOTS):
        prefill(engine, slot, prompt(slot))
    for active in range(SLOTS):
        idle = [slot for slot in range(SLOTS) if slot != active]
        before = [engine.save(slot) for slot in idle]
        for token in range(3):
            engine.decode([active], np.array([token], np.int32))
        for slot, rows in zip(idle, before, strict=True):
            np.testing.assert_array_equal(engine.save(slot), rows)


@pytest.mark.parametrize("full", range(SLOTS))
def test_a_full_slot_leaves_its_neighbours_alone(full: int, engine: _core.Engine) -> None:
    """Prefill and decode up to the last row: the next slot's memory begins right behind."""
    others = [slot for slot in range(SLOTS) if slot != full]
    for slot in others:
        prefill(engine, slot, prompt(slot))
    before = [engine.save(slot) for slot in others]
    ids = random_ids(engine.spec.max_prompt_length - 2, 1024, seed=1)
    # A short first chunk: the nets' maximum output behind the last one would not fit in the slot.
    engine.prefill(full, ids[:40], 0, last=False)
    for begin in range(40, len(ids), engine.spec.prefill_chunk):
        engine.prefill(full, ids[begin : begin + engine.spec.prefill_chunk], begin)
    while engine.length(full) < engine.spec.context_length:
        engine.decode([full], np.array([1], np.int32))
    for slot, rows in zip(others, before, strict=True):
        np.testing.assert_array_equal(engine.save(slot), rows)
    kept = engine.save(full)
    engine.decode(others, np.array([1, 2, 3], np.int32))
    np.testing.assert_array_equal(engine.save(full), kept)


def test_a_copied_prefix_has_the_same_bits(engine: _core.Engine) -> None:
    prefill(engine, 1, prompt(1))
    prefill(engine, 3, prompt(2))
    engine.copy_prefix(1, 3, 64)
    np.testing.assert_array_equal(engine.save(3), engine.save(1)[:, :, :64])
    tail = prompt(1)[64:]
    cold = engine.prefill(1, tail, 64)
    np.testing.assert_array_equal(engine.prefill(3, tail, 64), cold)
    rows = engine.decode([1, 3], np.array([9, 9], np.int32))
    np.testing.assert_array_equal(rows[0], rows[1])


@pytest.mark.parametrize("bmodel", [models.BATCH4, models.HISTORY], ids=lambda path: path.stem)
def test_saved_rows_go_on_anywhere(bmodel: Path, open_engine: OpenEngine) -> None:
    """Into another slot, between neighbours, and into another engine."""
    engine = open_engine(bmodel, 2, deterministic=True)
    prefill(engine, 0, prompt(1))
    engine.decode([0], np.array([3], np.int32))
    saved = engine.save(0)
    spec = engine.spec
    row_bytes = spec.kv_bytes_per_slot // (2 * spec.layers * spec.context_length)
    assert saved.shape == (spec.layers, 2, engine.length(0), row_bytes)
    tokens = (4, 5, 6)
    expected = [engine.decode([0], np.array([token], np.int32))[0] for token in tokens]
    other = open_engine(bmodel, 2, deterministic=True)
    for target in (engine, other):
        prefill(target, 0, prompt(3))
        target.restore(1, saved, saved.shape[2])
        assert target.length(1) == saved.shape[2]
        rows = [target.decode([0, 1], np.array([8, token], np.int32))[1] for token in tokens]
        assert_same_bits(rows, expected)


def test_part_of_the_saved_rows_is_a_prefix(engine: _core.Engine) -> None:
    prefill(engine, 0, prompt(1))
    saved = engine.save(0)
    engine.restore(2, saved, 33)
    np.testing.assert_array_equal(engine.save(2), saved[:, :, :33])
    engine.restore(2, saved, 0)
    assert engine.length(2) == 0


def test_rows_that_do_not_fit_are_refused(engine: _core.Engine) -> None:
    prefill(engine, 0, prompt(0))
    saved = engine.save(0)
    with pytest.raises(ValueError, match=r"tokens = 6: expected 0 to 5"):
        engine.restore(1, saved, 6)
    with pytest.raises(ValueError, match=r"data: expected the shape \[3, 2, any, 128\]"):
        engine.restore(1, saved[:, :, :, :-1].copy(), 5)
    with pytest.raises(ValueError, match="data: expected"):
        engine.restore(1, saved[:, :, ::2], 1)
    with pytest.raises(ValueError, match="slot 4: expected 0 to 3"):
        engine.save(4)
    assert engine.length(1) == 0
