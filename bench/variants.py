"""How far the logits of one request move between shape variants of batched decode nets.

python -m bench.variants DIRECTORY OUTPUT measures a batched model on the emulator and writes JSON;
in a process of its own, for the emulator writes to standard output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from bench.report import Row, Section
from device_svc.engine import CoreEngine
from device_svc.engine_api import Sampling
from tpuserve import bmodel, model_dir, runtime_library

_ROOT = Path(__file__).resolve().parents[1]
_MODEL = _ROOT / "tests" / "fixtures" / "models" / "batch4"
_PROMPTS = 4

METHOD = (
    "The batch-4 fixture (8-bit head) on the emulator. The same prompts of random ids with the "
    "same forced tokens through the largest variant, as --deterministic pins it, and through "
    "others, alone; logits are compared step by step, and the best token and one drawn at "
    "temperature 1 with the same seed. Neighbours change nothing within a variant: "
    "tests/golden/test_batch.py."
)

Logits: TypeAlias = NDArray[np.float32]
Ids: TypeAlias = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Case:
    """A variant that is asked for by the slot and the lengths of a request."""

    name: str
    slot: int
    prompt_tokens: int
    steps: int


@dataclass(frozen=True, slots=True)
class Moved:
    """Of `steps` rows of logits: how many differ at all, and in their tokens."""

    name: str
    steps: int
    different: int
    largest: float
    best_changed: int
    drawn_changed: int


def run() -> Section:
    """Raises CalledProcessError."""
    with tempfile.TemporaryDirectory(prefix="tpuserve-") as name:
        output = Path(name) / "variants.json"
        command = [sys.executable, "-m", "bench.variants", str(_MODEL), str(output)]
        subprocess.run(command, cwd=_ROOT, check=True, capture_output=True, text=True, timeout=600)
        found = [Moved(**each) for each in json.loads(output.read_text(encoding="utf-8"))]
    rows: list[Row] = []
    for moved in found:
        rows += [
            Row(f"{moved.name}: steps", moved.steps, ""),
            Row(f"{moved.name}: with any other bit", 100 * moved.different / moved.steps, "%"),
            Row(f"{moved.name}: largest difference of a logit", moved.largest, ""),
            Row(f"{moved.name}: other best token", 100 * moved.best_changed / moved.steps, "%"),
            Row(f"{moved.name}: other drawn token", 100 * moved.drawn_changed / moved.steps, "%"),
        ]
    return Section("variants", "One request in several shape variants", METHOD, tuple(rows))


def measure(directory: Path) -> list[Moved]:
    model = model_dir.load(directory)
    library = runtime_library.find("emulator")
    os.environ.update(library.environment)
    memory = bmodel.memory_budget(bmodel.read(model.bmodel))

    def opened(*, deterministic: bool) -> CoreEngine:
        return CoreEngine(
            (model.bmodel,),
            library.directory,
            emulator=library.emulator,
            chips=(0,),
            slots=memory.context_slots,
            memories=(memory,),
            deterministic=deterministic,
        )

    pinned, ladder = opened(deterministic=True), opened(deterministic=False)
    variants = ladder.decode_variants
    (few, many), (short, full) = (sorted(set(each)) for each in zip(*variants, strict=True))
    last = memory.context_slots - 1
    in_short = {"prompt_tokens": 8, "steps": short - 8}
    cases = (
        Case(f"{few} × {short} rows and length", slot=0, **in_short),
        Case(f"{many} × {short}", slot=last, **in_short),
        Case(f"{few} × {full}", slot=0, prompt_tokens=short + 1, steps=24),
    )
    try:
        return [_compare(case, pinned, ladder) for case in cases]
    finally:
        pinned.close()
        ladder.close()


def _compare(case: Case, pinned: CoreEngine, other: CoreEngine) -> Moved:
    draw = np.random.default_rng(1684)
    vocabulary = pinned.shape.vocab_size
    expected: list[Logits] = []
    found: list[Logits] = []
    for _ in range(_PROMPTS):
        prompt = draw.integers(3, vocabulary, case.prompt_tokens).astype(np.int32)
        forced = draw.integers(3, vocabulary, case.steps).astype(np.int32)
        expected += _rows(pinned, 0, prompt, forced)
        found += _rows(other, case.slot, prompt, forced)
    pairs = list(zip(expected, found, strict=True))
    drawn = [
        [_drawn(pinned, row, seed) for seed, row in enumerate(rows)] for rows in (expected, found)
    ]
    return Moved(
        case.name,
        len(pairs),
        sum(not np.array_equal(a, b) for a, b in pairs),
        max(float(np.abs(a - b).max()) for a, b in pairs),
        sum(int(a.argmax() != b.argmax()) for a, b in pairs),
        sum(a != b for a, b in zip(*drawn, strict=True)),
    )


def _rows(engine: CoreEngine, slot: int, prompt: Ids, forced: Ids) -> list[Logits]:
    chunk = engine.shape.prefill_chunk_tokens
    for begin in range(0, len(prompt), chunk):
        engine.prefill(slot, prompt[begin : begin + chunk], begin, last=False)
    rows = [engine.decode([slot], np.array([token], np.int32))[0] for token in forced]
    engine.free(slot)
    return [cast("Logits", row).copy() for row in rows]


def _drawn(engine: CoreEngine, row: Logits, seed: int) -> int:
    sampler = engine.sampler(Sampling(temperature=1.0, seed=seed), np.zeros(1, np.int32))
    [sampled] = engine.sample(row.reshape(1, -1), [sampler])
    if isinstance(sampled, ValueError):
        raise sampled
    return sampled.token


def main(arguments: Sequence[str]) -> None:
    directory, output = map(Path, arguments)
    output.write_text(json.dumps([asdict(moved) for moved in measure(directory)]), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
