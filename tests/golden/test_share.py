"""Bmodels for a shared prefix on the emulator: prefix, what follows it, and decode, under both
namings of their nets, against the float32 reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from device_svc import _core
from tests.golden import models
from tests.golden.conftest import OpenEngine
from tests.golden.models import Sequence, start
from tests.golden.reference import Reference
from tests.golden.test_logits import assert_close, assert_steps, random_ids

pytestmark = pytest.mark.parametrize(
    "bmodel", [models.SHARE, models.PROMPT], ids=lambda path: path.stem
)


def lengths(engine: _core.Engine) -> tuple[int, int]:
    """Most tokens of a prefix, and of one prefill behind it."""
    return engine.spec.prefill_chunk, engine.spec.history_chunk


def fill(sequence: Sequence, count: int, *, seed: int) -> None:
    """Appends random tokens in one launch and compares the logits of the last."""
    ids = random_ids(count, sequence.reference.vocab_size, seed=seed)
    position = sequence.state.length
    expected = sequence.reference.forward(ids.tolist(), sequence.state)[-1]
    row = sequence.engine.prefill(sequence.slot, ids, position)
    assert row is not None
    assert_close(row, expected)


def test_what_discovery_finds(bmodel: Path, open_engine: OpenEngine) -> None:
    spec = open_engine(bmodel).spec
    assert "shared-prefix" in spec.features
    assert spec.max_history == spec.prefill_chunk > spec.history_chunk
    assert spec.max_prompt_length == spec.prefill_chunk + spec.history_chunk


@pytest.mark.parametrize(("share", "rest"), [(1.0, 1.0), (0.4, 0.7), (0.0, 1.0), (1.0, 0.0)])
def test_prefix_rest_and_decode(
    share: float, rest: float, bmodel: Path, open_engine: OpenEngine, reference: Reference
) -> None:
    """Shares of the most that the nets take; at least one token."""
    sequence = start(open_engine(bmodel), reference, 0)
    most_share, most_rest = lengths(sequence.engine)
    fill(sequence, max(1, round(share * most_share)), seed=1)
    fill(sequence, max(1, round(rest * most_rest)), seed=2)
    assert_steps([sequence], 4, seed=3)


def test_every_question_behind_one_prefix(
    bmodel: Path, open_engine: OpenEngine, reference: Reference
) -> None:
    """Each overwrites the one before, in this slot and in one that the prefix is copied to."""
    engine = open_engine(bmodel, slots=2)
    sequence, other = start(engine, reference, 0), start(engine, reference, 1)
    prefix, most_rest = lengths(engine)[0] - 5, lengths(engine)[1]
    fill(sequence, prefix, seed=4)
    engine.copy_prefix(0, 1, prefix)
    other.state.keys = list(sequence.state.keys)
    other.state.values = list(sequence.state.values)
    for seed, count in enumerate((most_rest, 3, 11)):
        for each in (sequence, other):
            each.rewind(prefix)
            fill(each, count, seed=10 * seed + each.slot)
        assert_steps([sequence, other], 2, seed=seed)


def test_several_parts_behind_a_short_prefix(
    bmodel: Path, open_engine: OpenEngine, reference: Reference
) -> None:
    """Prefill goes on as long as a part begins within the rows that the nets see."""
    sequence = start(open_engine(bmodel), reference, 0)
    for seed, count in enumerate((7, 20, 20)):
        fill(sequence, count, seed=seed)
    assert_steps([sequence], 2, seed=5)


def test_up_to_the_last_row_of_the_context(
    bmodel: Path, open_engine: OpenEngine, reference: Reference
) -> None:
    engine = open_engine(bmodel)
    sequence = start(engine, reference, 0)
    most_share, most_rest = lengths(engine)
    fill(sequence, most_share, seed=6)
    fill(sequence, most_rest, seed=7)
    room = engine.spec.context_length - engine.length(0)
    for token in range(room - 1):
        engine.decode([0], np.array([token], np.int32))
        sequence.reference.forward([token], sequence.state)
    assert_steps([sequence], 1, seed=8)
    assert engine.length(0) == engine.spec.context_length


def test_what_does_not_fit_is_refused(bmodel: Path, open_engine: OpenEngine) -> None:
    engine = open_engine(bmodel)
    most_share, most_rest = lengths(engine)
    ids = np.zeros(most_share + 1, np.int32)
    with pytest.raises(ValueError, match=f"^{len(ids)} ids: one prefill takes 1 to {most_share}"):
        engine.prefill(0, ids, 0)
    engine.prefill(0, ids[:most_share], 0)
    with pytest.raises(ValueError, match=f"behind resident rows takes 1 to {most_rest}"):
        engine.prefill(0, ids[: most_rest + 1], most_share)
    assert engine.length(0) == most_share
    engine.prefill(0, ids[:2], most_share)
    with pytest.raises(ValueError, match=f"position {most_share + 1}: expected 0 to {most_share}"):
        engine.prefill(0, ids[:1], most_share + 1)
