"""Models on several simulated chips: their tokens, their work at the same time, their faults."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from device_svc import _core
from tests.support.simchip import BATCHED, ONE_ROW, next_token
from tests.support.simchip_abi import Simchip
from tests.support.simchip_bmodel import Shape, bmodel_parts

IDS = np.array([1, 2, 3], np.int32)
FOUR_LAYERS = dataclasses.replace(ONE_ROW, layers=4)
FOUR_LAYERS_BATCHED = dataclasses.replace(BATCHED, layers=4)
Open = Callable[..., tuple[_core.Engine, Simchip]]


@pytest.fixture
def open_engine(library: Callable[[str], Path], tmp_path: Path) -> Open:
    def new(
        shape: Shape, chips: list[int], *, slots: int = 4, profile: str = ""
    ) -> tuple[_core.Engine, Simchip]:
        path = library(f"[model]\nvocab_size = 64\n[chip]\ncount = 8\n{profile}")
        files = []
        for place, data in enumerate(bmodel_parts(shape, len(chips))):
            files.append(tmp_path / f"m.chip{place}.bmodel")
            files[-1].write_bytes(data)
        core = _core.Library(str(path.parent))
        engine = _core.Engine(core, [str(file) for file in files], chips=chips, slots=slots)
        return engine, Simchip(path)

    return new


def follow(engine: _core.Engine, slots: list[int], steps: int) -> None:
    """Prefills each slot in two chunks and decodes all together; every token is the rule's."""
    sequences: dict[int, list[int]] = {}
    for slot in slots:
        ids = [slot + 1, 5, 7, slot, 2, 9]
        engine.prefill(slot, np.array(ids[:4], np.int32), 0, last=False)
        row = engine.prefill(slot, np.array(ids[4:], np.int32), 4)
        assert row is not None
        sequences[slot] = [*ids, int(row.argmax())]
        assert sequences[slot][-1] == next_token(ids)
    for _ in range(steps):
        last = np.array([sequences[slot][-1] for slot in slots], np.int32)
        for slot, row in zip(slots, engine.decode(slots, last), strict=True):
            token = int(row.argmax())
            assert token == next_token(sequences[slot])
            sequences[slot].append(token)


@pytest.mark.parametrize("chips", [[0, 1], [6, 2, 4, 1]])
def test_tokens_are_those_of_one_chip(chips: list[int], open_engine: Open) -> None:
    engine, chip = open_engine(FOUR_LAYERS, chips)
    follow(engine, [0, 1, 2, 3], steps=8)
    follow(engine, [3, 1], steps=8)
    saved = engine.save(1)
    assert saved.shape == (4, 2, engine.length(1), 8)
    assert chip.broken_rules == 0
    assert chip.counter("launches") == engine.launches
    engine.close()
    assert [chip.counter(kind) for kind in ("allocations", "runtimes", "open_handles")] == [0] * 3


def test_each_chip_takes_a_batch(open_engine: Open) -> None:
    engine, chip = open_engine(FOUR_LAYERS_BATCHED, [0, 1], slots=8)
    assert engine.groups == 2
    follow(engine, list(range(8)), steps=8)
    follow(engine, [6, 0, 7], steps=8)
    before = engine.launches
    engine.decode(list(range(3)), IDS)
    # Slots 0 and 2 are in one group, slot 1 in the other: two launches of every net.
    assert engine.launches - before == 2 * (4 + 2)
    assert chip.broken_rules == 0
    with pytest.raises(ValueError, match=r"slots = 9: .* batch of 4, times 2 chips"):
        open_engine(FOUR_LAYERS_BATCHED, [0, 1], slots=9)


def test_all_chips_work_at_once(open_engine: Open) -> None:
    profile = "[latency]\nscale = 1\n[latency.block_cache]\nlaunch_us = 3000\n"
    engine, _ = open_engine(FOUR_LAYERS, [0, 1, 2, 3], slots=12, profile=profile)
    follow(engine, list(range(12)), steps=1)
    before, start = sum(engine.busy_s), time.monotonic()
    engine.decode(list(range(12)), np.zeros(12, np.int32))
    # Twelve groups through four chips: 15 turns in place of 48, in which 3.2 chips work.
    assert sum(engine.busy_s) - before > 1.5 * (time.monotonic() - start)
    assert all(busy_s > 0 for busy_s in engine.busy_s)


@pytest.mark.parametrize("kind", ["fail", "chip_fault"])
def test_a_fault_names_its_chip_and_frees_the_others(kind: str, open_engine: Open) -> None:
    # In the sixth decode of a layer of the third chip.
    fault = f'[[fault]]\nnet = "block_cache_2"\nlaunch = 6\nkind = "{kind}"\n'
    engine, _ = open_engine(FOUR_LAYERS, [3, 5, 7, 1], profile=fault)
    follow(engine, [0, 1], steps=2)
    with pytest.raises(_core.LaunchError, match="net block_cache_2 failed to launch on chip 7"):
        engine.decode([0, 1], np.array([1, 2], np.int32))
    if kind == "fail":
        follow(engine, [0, 1, 2], steps=4)
    else:
        with pytest.raises(_core.CoreError, match="on chip 7"):
            engine.decode([0, 1], np.array([1, 2], np.int32))
    engine.close()


def test_a_hang_of_one_chip_is_an_error(open_engine: Open) -> None:
    fault = '[[fault]]\nnet = "block_cache_1"\nlaunch = 2\nkind = "hang"\nseconds = 0.1\n'
    engine, _ = open_engine(FOUR_LAYERS, [0, 4], profile=fault)
    follow(engine, [0], steps=1)
    with pytest.raises(_core.DeviceError, match="bm_thread_sync on chip 0: BM_ERR_TIMEOUT"):
        engine.decode([0], np.array([1], np.int32))
    engine.close()


def test_a_chip_without_room_is_named(open_engine: Open) -> None:
    with pytest.raises(_core.CoreError, match=r"on chip 0|chip0\.bmodel"):
        open_engine(FOUR_LAYERS, [0, 1], profile="memory_bytes = 8192\n")
