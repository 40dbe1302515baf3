"""The real engine and sampler over simulated chips: tokens are those of the rule, computed here."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from device_svc import _core
from tests.support.simchip import BATCHED, ONE_ROW, completion, next_token, write_bmodel
from tests.support.simchip_abi import Simchip
from tests.support.simchip_bmodel import Shape

Row: TypeAlias = NDArray[np.float32] | NDArray[np.int32]

ROOT = Path(__file__).resolve().parents[3]
MODELS = sorted(
    [
        ROOT / "models/demo/demo_f16.bmodel",
        # Older nets and those for shared prefixes, images and sampling are not simulated.
        *ROOT.glob("tests/fixtures/models/[!cdmpsw]*/*.bmodel"),
        *ROOT.glob("tests/fixtures/models/dynamic/*.bmodel"),
        *ROOT.glob("tests/fixtures/models/w4f16/*.bmodel"),
        *ROOT.glob("tests/fixtures/models/static/*.bmodel"),
    ]
)
SHAPES = {
    "history": ONE_ROW,
    "dynamic": dataclasses.replace(ONE_ROW, prefill="dynamic", prefill_chunk=12),
    "static": dataclasses.replace(ONE_ROW, prefill="static", prefill_chunk=12),
    "argmax": dataclasses.replace(ONE_ROW, head="argmax"),
    "bfloat16": dataclasses.replace(ONE_ROW, dtype="bfloat16"),
    "float32": dataclasses.replace(ONE_ROW, dtype="float32"),
    "batched": BATCHED,
    "batched argmax": dataclasses.replace(BATCHED, head="argmax"),
}
PROFILE = "[model]\nvocab_size = 64"


class Served:
    """An engine whose slots' tokens are followed."""

    def __init__(self, engine: _core.Engine, vocab_size: int) -> None:
        self.engine = engine
        self.vocab_size = vocab_size
        self.ids: dict[int, list[int]] = {}

    def prefill(self, slot: int, ids: Sequence[int], position: int = 0) -> None:
        """Then appends the token that follows, which must be that of the rule."""
        chunk = self.engine.spec.prefill_chunk
        row = None
        for start in range(position, len(ids), chunk):
            part = np.array(ids[start : start + chunk], dtype=np.int32)
            row = self.engine.prefill(slot, part, start, last=start + chunk >= len(ids))
        assert row is not None
        self.accept(slot, list(ids), row.reshape(1, -1)[0])

    def decode(self, slots: Sequence[int]) -> None:
        last = np.array([self.ids[slot][-1] for slot in slots], dtype=np.int32)
        for slot, row in zip(slots, self.engine.decode(slots, last), strict=True):
            self.accept(slot, self.ids[slot], np.atleast_1d(row))

    def accept(self, slot: int, ids: list[int], row: Row) -> None:
        token = int(row[0]) if self.engine.spec.head == "argmax" else int(row.argmax())
        assert token == next_token(ids, self.vocab_size)
        self.ids[slot] = [*ids, token]


@pytest.fixture
def serve(library: Callable[[str], Path], tmp_path: Path) -> Callable[..., tuple[Served, Simchip]]:
    def new(
        model: Shape | Path, *, slots: int = 4, profile: str = PROFILE
    ) -> tuple[Served, Simchip]:
        path = library(profile)
        if isinstance(model, Shape):
            model = write_bmodel(tmp_path / "m.bmodel", model)
        core = _core.Library(str(path.parent))
        served = Served(_core.Engine(core, [str(model)], slots=slots), 0)
        served.vocab_size = served.engine.spec.vocab_size or 64
        return served, Simchip(path)

    return new


def drive(served: Served, steps: int, seed: int) -> None:
    """Slots that prefill, decode in any company, and are used again."""
    draw = random.Random(seed)
    spec = served.engine.spec
    for _ in range(steps):
        slot = draw.randrange(served.engine.slots)
        if slot not in served.ids or draw.random() < 0.05:
            length = draw.randrange(1, min(spec.max_prompt_length, 60) + 1)
            ids = [draw.randrange(served.vocab_size) for _ in range(length)]
            served.prefill(slot, ids)
        # The last id is not in its row yet.
        ready = [s for s, ids in served.ids.items() if len(ids) <= spec.context_length]
        for full in served.ids.keys() - ready:
            served.engine.free(full)
        served.ids = {s: served.ids[s] for s in ready}
        chosen = [s for s in ready if draw.random() < 0.8]
        if chosen:
            draw.shuffle(chosen)
            served.decode(chosen)


@pytest.mark.parametrize("name", SHAPES)
def test_tokens_of_every_kind_of_model(
    name: str, serve: Callable[..., tuple[Served, Simchip]]
) -> None:
    served, chip = serve(SHAPES[name])
    drive(served, 300, seed=len(name))
    assert chip.broken_rules == 0
    assert chip.counter("foreign_kv_bytes") == 0
    assert chip.counter("launches") == served.engine.launches
    served.engine.close()
    assert chip.counter("used_bytes") == 0
    assert [chip.counter(kind) for kind in ("allocations", "runtimes", "open_handles")] == [0] * 3
    assert chip.broken_rules == 0


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_real_bmodels_run_without_their_weights(
    path: Path, serve: Callable[..., tuple[Served, Simchip]]
) -> None:
    served, chip = serve(path, profile="")
    served.vocab_size = 1024
    drive(served, 60, seed=1)
    assert chip.broken_rules == 0
    served.engine.close()
    assert chip.counter("used_bytes") == 0


def test_a_copied_prefix_goes_on_as_its_source(
    serve: Callable[..., tuple[Served, Simchip]],
) -> None:
    served, chip = serve(ONE_ROW)
    served.prefill(0, [5, 6, 7, 8, 9, 10])
    served.engine.copy_prefix(0, 2, 4)
    served.prefill(2, [5, 6, 7, 8, 1], position=4)
    served.decode([0, 2])
    assert served.ids[2] == [5, 6, 7, 8, 1, *completion([5, 6, 7, 8, 1], 2)]
    assert chip.broken_rules == 0


def test_sampling_draws_among_the_three_best(
    serve: Callable[..., tuple[Served, Simchip]],
) -> None:
    """Logits 4, 3, 2 of a token and the two ids after it; -30 for all others."""
    served, _ = serve(ONE_ROW, slots=1)
    row = served.engine.prefill(0, np.array([61], np.int32), 0, last=True)
    assert row is not None
    token = next_token([61])
    assert token == 63
    params = _core.SamplingParams(temperature=0.0, logprobs=3)
    sampler = _core.Sampler(params, 64, np.array([61], np.int32))
    (best,) = _core.sample(row.reshape(1, -1).astype(np.float32), [sampler])
    total = np.log(sum(np.exp([4.0, 3.0, 2.0])))
    assert [(t, round(p, 4)) for t, p in best.top] == [
        (63, round(4 - total, 4)),
        (0, round(3 - total, 4)),
        (1, round(2 - total, 4)),
    ]
    drawn = {
        _core.sample(
            row.reshape(1, -1).astype(np.float32),
            [_core.Sampler(_core.SamplingParams(seed=seed), 64, np.array([61], np.int32))],
        )[0].token
        for seed in range(50)
    }
    assert drawn == {63, 0, 1}
