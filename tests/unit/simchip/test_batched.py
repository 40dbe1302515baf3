"""Batched decode nets, driven through the C functions alone."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest

from tests.support.simchip import BATCHED, ONE_ROW, completion, next_token, write_bmodel
from tests.support.simchip_abi import Simchip
from tests.support.simchip_slots import Slots
from tests.unit.simchip.conftest import NewChip

PROMPTS = {0: [5, 9, 2], 1: [7], 2: [1, 2, 3, 4, 5], 3: [60, 61]}


@pytest.fixture
def chip(new_chip: NewChip) -> Simchip:
    return new_chip()


@pytest.fixture
def slots(chip: Simchip, tmp_path: Path) -> Slots:
    return Slots(chip.open(), write_bmodel(tmp_path / "m.bmodel", BATCHED), BATCHED.layers)


def test_the_rule_by_hand(slots: Slots) -> None:
    """2·1 + 1 = 3; 3 + 3·2 + 1 = 10; 10 + 4·3 + 1 = 23; 23 + 24·4 + 1 = 120, modulo 64 is 56."""
    assert slots.step({0: 1}) == {0: 3}
    assert slots.step({0: 2}) == {0: 10}
    assert slots.step({0: 3}) == {0: 23}
    assert slots.step({0: 23}) == {0: 56}
    assert [next_token([1, 2, 3]), next_token([1, 2, 3, 23])] == [23, 56]


def test_four_slots_at_once_equal_their_solo_runs(slots: Slots, chip: Simchip) -> None:
    for slot, prompt in PROMPTS.items():
        for token in prompt[:-1]:
            slots.step({slot: token})
    last = {slot: prompt[-1] for slot, prompt in PROMPTS.items()}
    out: dict[int, list[int]] = {slot: [] for slot in PROMPTS}
    for _ in range(20):
        last = slots.step(last)
        for slot, token in last.items():
            out[slot].append(token)
    assert out == {slot: completion(prompt, 20) for slot, prompt in PROMPTS.items()}
    assert chip.broken_rules == 0
    assert chip.counter("foreign_kv_bytes") == 0


def test_random_joins_pauses_and_leaves(slots: Slots, chip: Simchip) -> None:
    draw = random.Random(3)
    wanted: dict[int, int] = {}
    for _ in range(600):
        taking = {slot: 0 for slot in range(4) if draw.random() < 0.6}
        for slot in list(taking):
            held = slots.ids.get(slot, [])
            if len(held) == 32 or draw.random() < 0.03:
                slots.ids[slot] = held = []
            taking[slot] = wanted[slot] if held else draw.randrange(64)
        if not taking:
            continue
        for slot, token in slots.step(taking).items():
            assert token == next_token(slots.ids[slot])
            wanted[slot] = token
    assert chip.broken_rules == 0


def test_a_variant_that_is_too_short_spoils_a_paused_slot(slots: Slots) -> None:
    """It writes row 16 of every slot below its rows, and slot 0 holds a token there."""
    ids = [3] * 17
    for token in ids:
        slots.step({0: token})
    slots.step({1: 8}, length=1)
    assert slots.step({0: 3})[0] != next_token([*ids, 3])


def test_a_long_enough_variant_does_not(slots: Slots, chip: Simchip) -> None:
    ids = [3] * 17
    for token in ids:
        slots.step({0: token})
    slots.step({1: 8})
    assert slots.step({0: 3})[0] == next_token([*ids, 3])
    assert chip.broken_rules == 0


def test_slots_above_the_rows_keep_theirs(slots: Slots) -> None:
    slots.run(3, PROMPTS[3], 5)
    slots.run(0, PROMPTS[0], 20)
    expected = completion(PROMPTS[3], 6)
    assert slots.step({3: expected[4]})[3] == expected[5]


@pytest.mark.parametrize("column", [0, 2])
def test_a_hidden_row_that_holds_a_token_changes_the_token(slots: Slots, column: int) -> None:
    slots.run(1, [4, 5, 6], 1)
    assert slots.step({1: 9}, mask_change=(1, column))[1] != next_token([4, 5, 6, 9])


def test_a_visible_row_without_token_changes_the_token(slots: Slots, chip: Simchip) -> None:
    slots.run(1, [4, 5, 6], 1)
    assert slots.step({1: 9}, mask_change=(1, 5))[1] != next_token([4, 5, 6, 9])
    assert chip.last_rule() in ("foreign-row", "layers-disagree")


def test_a_row_in_the_wrong_place_of_one_layer_changes_the_next_token(
    slots: Slots, chip: Simchip
) -> None:
    slots.run(1, [4, 5, 6], 1)
    slots.step({1: 9}, row_shift=1)
    assert chip.broken_rules == 0
    assert slots.step({1: 10})[1] != next_token([4, 5, 6, 9, 10])
    assert chip.broken_rules > 0


def test_kv_given_elsewhere_is_copied_and_counted(chip: Simchip, tmp_path: Path) -> None:
    handle = chip.open()
    slots = Slots(handle, write_bmodel(tmp_path / "m.bmodel", ONE_ROW), ONE_ROW.layers)
    slots.run(0, [4, 5, 6], 1)
    variant = slots.nets["block_cache_0"][slots.variant(1, 3)]
    k = variant.inputs[3]
    elsewhere = handle.allocate(k.size)
    handle.copy(elsewhere.address, k.address, k.size)
    handle.fill(k.address, k.size)
    slots.nets["block_cache_0"] = [
        type(v)((*v.inputs[:3], v.inputs[3].at(elsewhere.address), v.inputs[4]), v.outputs)
        for v in slots.nets["block_cache_0"]
    ]
    assert slots.step({0: 9})[0] == next_token([4, 5, 6, 9])
    assert chip.counter("foreign_kv_bytes") == k.size
    assert chip.broken_rules == 0


def test_memory_that_was_never_zeroed_spreads_nan(
    chip: Simchip, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    slots = Slots(chip.open(), write_bmodel(tmp_path / "m.bmodel", BATCHED), BATCHED.layers)
    k = slots.nets["block_cache_1"][0].inputs[3]
    slots.handle.fill(k.address + 20 * (k.size // 32), 8, 0xFF)
    slots.step({0: 1}, length=1)
    assert chip.broken_rules == 0  # the variant of 16 rows does not read row 20
    slots.step({0: 2}, length=17)
    assert "simchip: nan-kv: net block_cache_1: row 20 " in capfd.readouterr().err
    out = slots.rows_variant("lm_head", 1).outputs[0]
    assert np.isnan(slots.handle.download(out.address, 64, "float32")[1]).all()


def test_masks_are_0_or_hidden(
    slots: Slots,
    chip: Simchip,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("tests.support.simchip_slots.HIDDEN", np.float16(-1))
    slots.step({1: 1}, length=1)
    assert "simchip: mask-value: net block_cache_0: column 0" in capfd.readouterr().err
    assert chip.broken_rules > 0


def test_greedy_head_takes_the_first_best(new_chip: NewChip, tmp_path: Path) -> None:
    shape = dataclasses.replace(BATCHED, greedy_head=True)
    handle = new_chip().open()
    runtime = handle.runtime(write_bmodel(tmp_path / "m.bmodel", shape))
    variant = next(v for v in runtime.variants("greedy_head") if v.inputs[0].dims[0] == 4)
    logits = np.zeros((4, 64), np.float32)
    logits[1, 9], logits[2, 63], logits[3, 5] = 1, 2, -1
    handle.upload(variant.inputs[0].address, logits)
    assert runtime.launch("greedy_head", variant.inputs, variant.outputs)
    handle.sync()
    out = handle.download(variant.outputs[0].address, 4, "int32")[1]
    assert out.tolist() == [0, 9, 63, 0]
