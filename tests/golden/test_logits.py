"""Logits of the float16 bmodels on the emulator against a float32 reference of the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.golden import models
from tests.golden.conftest import OpenEngine
from tests.golden.models import Ids, Logits, Sequence, decode, start
from tests.golden.reference import Reference

EVERY = pytest.mark.parametrize(
    "bmodel",
    [models.HISTORY, models.STATIC, models.DYNAMIC, models.BATCH4],
    ids=lambda path: path.stem,
)
CHUNKED = pytest.mark.parametrize(
    "bmodel", [models.HISTORY, models.BATCH4], ids=lambda path: path.stem
)


def random_ids(count: int, vocab_size: int, *, seed: int) -> Ids:
    return np.random.default_rng(seed).integers(0, vocab_size, count, dtype=np.int32)


def assert_close(row: NDArray[np.float32] | NDArray[np.int32], expected: Logits) -> None:
    """The same direction and the same best token, unless two are as close as float16 can tell."""
    assert row.dtype == np.float32
    assert models.cosine(row.astype(np.float32), expected) >= 0.9999
    assert_best(int(np.argmax(row)), expected)


def assert_best(token: int, expected: Logits) -> None:
    assert expected[token] >= expected.max() - 5e-3 * expected.std()


def assert_steps(sequences: list[Sequence], steps: int, *, seed: int) -> None:
    vocab_size = sequences[0].reference.vocab_size
    ids = random_ids(steps * len(sequences), vocab_size, seed=seed).reshape(steps, -1)
    for step in ids:
        for row, expected in decode(sequences, step):
            assert_close(row, expected)


@EVERY
def test_prefill_of_every_kind_of_length(
    bmodel: Path, open_engine: OpenEngine, reference: Reference
) -> None:
    engine = open_engine(bmodel)
    chunk = engine.spec.prefill_chunk
    for count in (1, 2, 31, chunk - 1, chunk):
        ids = random_ids(count, reference.vocab_size, seed=count)
        assert_close(*start(engine, reference, 0).prefill(ids))
        assert engine.length(0) == count


@EVERY
def test_every_decode_step(bmodel: Path, open_engine: OpenEngine, reference: Reference) -> None:
    sequence = start(open_engine(bmodel), reference, 0)
    row, expected = sequence.prefill(random_ids(9, reference.vocab_size, seed=1))
    for _ in range(12):
        assert_close(row, expected)
        [(row, expected)] = decode([sequence], np.array([np.argmax(expected)], np.int32))


@EVERY
def test_two_slots_interleaved(bmodel: Path, open_engine: OpenEngine, reference: Reference) -> None:
    engine = open_engine(bmodel, slots=2)
    first, second = start(engine, reference, 0), start(engine, reference, 1)
    assert_close(*first.prefill(random_ids(20, reference.vocab_size, seed=2)))
    assert_steps([first], 2, seed=3)
    assert_close(*second.prefill(random_ids(7, reference.vocab_size, seed=4)))
    assert_steps([first, second], 3, seed=5)
    assert_steps([second, first], 2, seed=6)
    assert_steps([second], 2, seed=7)
    assert_steps([first], 2, seed=8)


@CHUNKED
@pytest.mark.parametrize("count", [65, 128, 150])
def test_prefill_in_chunks(
    count: int, bmodel: Path, open_engine: OpenEngine, reference: Reference
) -> None:
    sequence = start(open_engine(bmodel), reference, 0)
    assert_close(*sequence.prefill(random_ids(count, reference.vocab_size, seed=count)))
    assert_steps([sequence], 2, seed=9)


def test_decode_across_shape_variants(open_engine: OpenEngine, reference: Reference) -> None:
    """The first variant sees 64 rows of history; steps at 62 to 67 use it and then the next."""
    sequence = start(open_engine(models.HISTORY), reference, 0)
    sequence.prefill(random_ids(62, reference.vocab_size, seed=10))
    assert_steps([sequence], 6, seed=11)


@CHUNKED
def test_rewind_to_a_shared_prefix_and_continue(
    bmodel: Path, open_engine: OpenEngine, reference: Reference
) -> None:
    sequence = start(open_engine(bmodel), reference, 0)
    sequence.prefill(random_ids(80, reference.vocab_size, seed=12))
    assert_steps([sequence], 3, seed=13)
    sequence.rewind(50)
    assert_close(*sequence.prefill(random_ids(25, reference.vocab_size, seed=14)))
    assert_steps([sequence], 3, seed=15)


@CHUNKED
def test_continue_after_a_copied_prefix(
    bmodel: Path, open_engine: OpenEngine, reference: Reference
) -> None:
    engine = open_engine(bmodel, slots=2)
    source, target = start(engine, reference, 0), start(engine, reference, 1)
    source.prefill(random_ids(40, reference.vocab_size, seed=16))
    target.prefill(random_ids(10, reference.vocab_size, seed=17))
    engine.copy_prefix(0, 1, 33)
    target.state.keys = [rows[:33] for rows in source.state.keys]
    target.state.values = [rows[:33] for rows in source.state.values]
    assert_close(*target.prefill(random_ids(6, reference.vocab_size, seed=18)))
    assert_steps([source, target], 2, seed=19)


@CHUNKED
def test_up_to_the_last_row_of_the_context(
    bmodel: Path, open_engine: OpenEngine, reference: Reference
) -> None:
    """The last chunk ends where the nets' maximum output no longer fits into the slot."""
    engine = open_engine(bmodel)
    sequence = start(engine, reference, 0)
    ids = random_ids(engine.spec.max_prompt_length, reference.vocab_size, seed=20)
    # A short first chunk, so that the others do not end with the slot.
    sequence.prefill(ids[:40])
    assert_close(*sequence.prefill(ids[40:]))
    assert_steps([sequence], 1, seed=21)
    assert engine.length(0) == engine.spec.context_length


def test_an_argmax_head_names_the_best_token(open_engine: OpenEngine, reference: Reference) -> None:
    engine = open_engine(models.ARGMAX, slots=2)
    first, second = start(engine, reference, 0), start(engine, reference, 1)
    for sequence, count in ((first, 70), (second, 5)):
        row, expected = sequence.prefill(random_ids(count, reference.vocab_size, seed=count))
        assert row.dtype == np.int32
        assert_best(int(row[0]), expected)
    for ids in random_ids(16, reference.vocab_size, seed=22).reshape(8, 2):
        for token, expected in decode([first, second], ids):
            assert_best(int(token), expected)
