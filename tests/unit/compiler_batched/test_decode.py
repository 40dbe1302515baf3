"""The batched decode nets compute what the converter's own prefill nets compute, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.compiler_batched.emulated import Array, Nets, NetVariant
from tpuserve import model_dir

FIXTURE = Path(__file__).resolve().parents[2] / "fixtures" / "models" / "batch4"
LAYERS, SLOTS, CHUNK, VOCAB, ROW_ELEMENTS = 3, 4, 64, 1024, 64
FULL, SHORT, ONE, ONE_SHORT = (4, 256), (4, 32), (1, 256), (1, 32)
LONG_TEXTS, SHORT_TEXTS = (5, 17, 60, 33), (5, 17, 30, 32)
MASKED = -10000.0


class Model:
    """The nets strung together; a slot's KV is the decode net's own input memory."""

    def __init__(self, nets: Nets) -> None:
        self.nets = nets
        self.decode = [
            {(v.inputs[0].shape[0], v.inputs[3].shape[1]): v for v in self._of(f"block_cache_{i}")}
            for i in range(LAYERS)
        ]
        self.length = [0] * SLOTS

    def _of(self, net: str) -> list[NetVariant]:
        return self.nets.variants(net)

    def _rows(self, net: str, rows: int) -> NetVariant:
        return next(v for v in self._of(net) if v.inputs[0].shape[0] == rows)

    def poison(self, value: float) -> None:
        """Fill all KV memory, as the leftovers of finished requests would."""
        for layer in self.decode:
            for port in layer[FULL].inputs[3:]:
                self.nets.write(port.memory, np.full(port.shape, value, np.float16))
        self.length = [0] * SLOTS

    def prefill(self, ids: list[int], slot: int | None = None) -> Array:
        """Logits after `ids`, at most a chunk, by the one-sequence nets; KV goes to `slot`."""
        padded = np.zeros((1, CHUNK), np.int32)
        padded[0, : len(ids)] = ids
        states = self.nets.run("embedding", self._of("embedding")[0], [padded])[0][:, : len(ids)]
        positions = np.arange(len(ids), dtype=np.int32)[None]
        for layer in range(LAYERS):
            net = f"block_{layer}"
            out = self.nets.run(net, self._of(net)[0], [states, positions])
            # A dynamic net leaves as many rows as it was given at the front of its largest output.
            states = out[0].reshape(CHUNK, -1)[None, : len(ids)]
            for which in (0, 1):
                rows = out[1 + which].reshape(CHUNK, -1)[: len(ids)]
                if slot is not None:
                    self.nets.write(self.kv(layer, slot, which), rows)
        if slot is not None:
            self.length[slot] = len(ids)
        logits = self.nets.run("lm_head", self._rows("lm_head", 1), [states[0, -1:]])[0]
        return logits.reshape(VOCAB)

    def kv(self, layer: int, slot: int, which: int) -> Any:
        return self.decode[layer][FULL].inputs[3 + 2 * slot + which].memory

    def kv_rows(self, slot: int) -> Array:
        """All rows of the slot as they are in device memory: [layers, 2, 256, row]."""
        return np.stack(
            [
                self.nets.read(layer[FULL].inputs[3 + 2 * slot + which]).reshape(-1, ROW_ELEMENTS)
                for layer in self.decode
                for which in (0, 1)
            ]
        )

    def step(self, tokens: dict[int, int], variant: tuple[int, int]) -> Array:
        """Logits [rows, vocab]; slots without a token are carried along and keep their KV."""
        rows, length = variant
        ids, positions = np.zeros((rows, 1), np.int32), np.zeros((rows, 1), np.int32)
        mask = np.full((rows, 1, 1, length + 1), MASKED, np.float16)
        mask[..., length] = 0
        for slot, token in tokens.items():
            ids[slot], positions[slot] = token, self.length[slot]
            mask[slot, ..., : self.length[slot]] = 0
        states = self.nets.run("embedding_cache", self._rows("embedding_cache", rows), [ids])[0]
        for layer in range(LAYERS):
            inputs = [states, positions, mask, *[None] * (2 * SLOTS)]
            out = self.nets.run(f"block_cache_{layer}", self.decode[layer][variant], inputs)
            states = out[0]
            for slot in tokens:
                for which in (0, 1):
                    new_row = out[1 + 2 * slot + which]
                    offset_bytes = self.length[slot] * new_row.nbytes
                    self.nets.write(self.kv(layer, slot, which), new_row, offset_bytes)
        for slot in tokens:
            self.length[slot] += 1
        return self.nets.run("lm_head", self._rows("lm_head", rows), [states[:, 0]])[0]

    def best(self, logits: Array) -> Array:
        return self.nets.run("greedy_head", self._rows("greedy_head", len(logits)), [logits])[0]


@pytest.fixture(scope="module")
def nets() -> Iterator[Nets]:
    loaded = Nets(model_dir.load(FIXTURE).bmodel)
    yield loaded
    loaded.close()


@pytest.fixture
def model(nets: Nets) -> Model:
    fresh = Model(nets)
    fresh.poison(100.0)
    return fresh


def texts(lengths: tuple[int, ...] = SHORT_TEXTS, seed: int = 0) -> dict[int, list[int]]:
    """For every slot the tokens that it holds and one more."""
    draw = np.random.default_rng(seed)
    return {
        slot: [int(i) for i in draw.integers(3, VOCAB, length + 1)]
        for slot, length in enumerate(lengths)
    }


def cosine(a: Array, b: Array) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def fill(model: Model, held: dict[int, list[int]]) -> dict[int, int]:
    """Prefill all but the last token of each slot; returns the last ones."""
    for slot, ids in held.items():
        model.prefill(ids[:-1], slot)
    return {slot: ids[-1] for slot, ids in held.items()}


@pytest.mark.parametrize(("variant", "lengths"), [(FULL, LONG_TEXTS), (SHORT, SHORT_TEXTS)])
def test_slots_of_different_lengths_agree_with_prefill(
    model: Model, variant: tuple[int, int], lengths: tuple[int, ...]
) -> None:
    held = texts(lengths)
    logits = model.step(fill(model, held), variant)
    for slot, ids in held.items():
        expected = model.prefill(ids)
        assert cosine(logits[slot], expected) > 0.99999, slot
        assert int(logits[slot].argmax()) == int(expected.argmax())


def test_a_row_has_the_same_bits_whoever_shares_the_step(model: Model) -> None:
    held = texts(LONG_TEXTS)
    together = model.step(fill(model, held), FULL)
    strangers = texts(LONG_TEXTS, seed=1)
    for slot, ids in held.items():
        model.poison(-3.0)
        alone = model.step(fill(model, {slot: ids}), FULL)[slot]
        np.testing.assert_array_equal(alone, together[slot])
        model.poison(7.0)
        among_others = model.step(fill(model, {**strangers, slot: ids}), FULL)[slot]
        np.testing.assert_array_equal(among_others, together[slot])


def test_a_row_has_the_same_bits_in_every_slot(model: Model) -> None:
    ids = texts()[1]
    rows = []
    for slot in range(SLOTS):
        model.poison(1.0)
        rows.append(model.step(fill(model, {slot: ids}), FULL)[slot])
    for row in rows[1:]:
        np.testing.assert_array_equal(row, rows[0])


def test_a_shorter_variant_agrees_with_a_longer_one(model: Model) -> None:
    held = texts()
    full = model.step(fill(model, held), FULL)
    model.poison(2.0)
    short = model.step(fill(model, held), SHORT)
    for slot in held:
        # Attention adds up in another order: the last bits may differ.
        assert cosine(short[slot], full[slot]) > 0.99999, slot
        assert int(short[slot].argmax()) == int(full[slot].argmax())


@pytest.mark.parametrize("variant", [ONE, ONE_SHORT])
def test_one_row_agrees_with_four(model: Model, variant: tuple[int, int]) -> None:
    ids = texts()[2]
    four = model.step(fill(model, {0: ids}), FULL)[0]
    model.poison(2.0)
    one = model.step(fill(model, {0: ids}), variant)[0]
    # Other shapes are other programs: the last bits may differ.
    assert cosine(one, four) > 0.999999


def test_a_step_writes_one_row_behind_the_length_of_its_computing_slots(model: Model) -> None:
    held = texts()
    tokens = fill(model, held)
    before = [model.kv_rows(slot) for slot in range(SLOTS)]
    model.step({0: tokens[0]}, SHORT)
    for slot in range(SLOTS):
        changed = np.flatnonzero((model.kv_rows(slot) != before[slot]).any(axis=(0, 2)))
        # Row 32 is scratch of every slot that the variant computes; row 5 is slot 0's new token.
        assert changed.tolist() == ([5, 32] if slot == 0 else [32]), slot


def test_slots_above_a_variants_rows_stay_as_they_are(model: Model) -> None:
    held = texts()
    tokens = fill(model, held)
    before = [model.kv_rows(slot) for slot in range(SLOTS)]
    model.step({0: tokens[0]}, ONE_SHORT)
    for slot in range(1, SLOTS):
        np.testing.assert_array_equal(model.kv_rows(slot), before[slot])


@pytest.mark.parametrize("rows", [1, 4])
def test_the_greedy_head_takes_the_first_of_the_best(model: Model, rows: int) -> None:
    logits = np.random.default_rng(0).normal(size=(rows, VOCAB)).astype(np.float32)
    logits[0, [9, 700, VOCAB - 1]] = 50.0
    best = model.best(logits)
    assert best.dtype == np.int32
    assert best.tolist() == logits.argmax(axis=1)[:, None].tolist()
    assert best[0, 0] == 9
