"""The bmodels of the golden tests and what they are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from device_svc import _core
from tests.golden.reference import KvState, Reference

ROOT: Final = Path(__file__).parents[2]
CONFIG: Final = ROOT / "models/demo/config/config.json"
WEIGHTS: Final = ROOT / "models/demo/weights/model.safetensors"

HISTORY: Final = ROOT / "models/demo/demo_f16.bmodel"
STATIC: Final = ROOT / "tests/fixtures/models/static/demo_f16_static.bmodel"
DYNAMIC: Final = ROOT / "tests/fixtures/models/dynamic/demo_f16_dynamic.bmodel"
ARGMAX: Final = ROOT / "tests/fixtures/models/argmax/demo_f16_argmax.bmodel"
BATCH4: Final = ROOT / "tests/fixtures/models/batch4/demo_f16_batch4.bmodel"
SHARE: Final = ROOT / "tests/fixtures/models/share/demo_f16_share.bmodel"
PROMPT: Final = ROOT / "tests/fixtures/models/prompt/demo_f16_prompt.bmodel"
W4F16: Final = ROOT / "tests/fixtures/models/w4f16/demo_w4f16.bmodel"

Ids = NDArray[np.int32]
Logits = NDArray[np.float32]


def cosine(a: Logits, b: Logits) -> float:
    """Cosine of the angle between two rows, in double precision."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


@dataclass(slots=True)
class Sequence:
    """One slot of an engine beside the reference's state of the same tokens."""

    engine: _core.Engine
    reference: Reference
    slot: int
    state: KvState

    def rewind(self, length: int) -> None:
        """Forgets the reference's rows from `length` on; the engine is told by the next prefill."""
        self.state.keys = [rows[:length] for rows in self.state.keys]
        self.state.values = [rows[:length] for rows in self.state.values]

    def prefill(self, ids: Ids) -> tuple[NDArray[np.float32] | NDArray[np.int32], Logits]:
        """Appends `ids` in as many chunks as needed: the head's row and the reference's logits."""
        position = self.state.length
        expected = self.reference.forward(ids.tolist(), self.state)[-1]
        chunk = self.engine.spec.prefill_chunk
        for start in range(0, len(ids), chunk):
            part = ids[start : start + chunk]
            last = start + chunk >= len(ids)
            row = self.engine.prefill(self.slot, part, position + start, last=last)
        assert row is not None
        return row, expected


def start(engine: _core.Engine, reference: Reference, slot: int) -> Sequence:
    return Sequence(engine, reference, slot, KvState())


def decode(
    sequences: list[Sequence], ids: Ids
) -> list[tuple[NDArray[np.float32] | NDArray[np.int32], Logits]]:
    """One step of all sequences: per sequence the head's row and the reference's logits."""
    rows = sequences[0].engine.decode([sequence.slot for sequence in sequences], ids)
    return [
        (rows[i], sequence.reference.forward([int(ids[i])], sequence.state)[-1])
        for i, sequence in enumerate(sequences)
    ]
