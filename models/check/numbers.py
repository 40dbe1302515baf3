"""A bmodel's logits on the emulator beside those of the float reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from device_svc import _core
from tpuserve import runtime_library

Array = NDArray[Any]
# (config, weights, ids [n]) to logits [n, vocab].
Reference = Callable[[Mapping[str, Any], Mapping[str, Array], Array], Array]

_PROMPT_TOKENS: Final = 50
_STEPS: Final = 10
# Two logits are as good as equal below this part of the row's standard deviation.
_TIE: Final = 0.02


@dataclass(frozen=True, slots=True)
class Agreement:
    """`cosine` is the smallest of all rows; None when the head returns tokens."""

    cosine: float | None
    agreeing: int
    positions: int


def compare(
    bmodels: Sequence[Path],
    logits: Callable[[Array], Array],
    vocab: int,
    *,
    show: Callable[[Any, int, Array], None] | None = None,
) -> Agreement:
    """`logits` is the reference, of ids [n] -> [n, vocab]; each bmodel gets a chip.

    show: called with engine, slot and ids before a slot is filled; may change the ids.

    Prefill, in chunks and behind a rewind where the nets can, and decode steps; on a batched bmodel
    two sequences of different lengths step together.
    """
    found = runtime_library.find("emulator")
    library = _core.Library(str(found.directory), emulator=True)
    parts = [str(path) for path in bmodels]
    engine = _core.Engine(library, parts, chips=range(len(parts)), slots=2)
    try:
        draw = np.random.default_rng(1)
        slots = 2 if engine.spec.decode_rows > 1 else 1
        texts = [
            draw.integers(0, vocab, _PROMPT_TOKENS - 20 * slot + _STEPS).astype(np.int32)
            for slot in range(slots)
        ]
        if show:
            for slot, text in enumerate(texts):
                show(engine, slot, text)
        got = [
            _prefilled(engine, slot, text[: len(text) - _STEPS]) for slot, text in enumerate(texts)
        ]
        for step in range(_STEPS, 0, -1):
            ids = np.array([text[len(text) - step] for text in texts], np.int32)
            for slot, row in enumerate(engine.decode(list(range(slots)), ids)):
                got[slot][len(texts[slot]) - step] = row
    finally:
        engine.close()
    return agreement(got, [logits(text) for text in texts])


def _prefilled(engine: Any, slot: int, ids: Array) -> dict[int, Array]:
    """Rows by the position that they follow."""
    chunk = min(engine.spec.prefill_chunk, len(ids))
    if not engine.spec.history:
        return {len(ids) - 1: engine.prefill(slot, ids, 0)}
    got = {chunk - 1: engine.prefill(slot, ids[:chunk], 0)}
    for start in range(chunk, len(ids), chunk):
        got[len(ids) - 1] = engine.prefill(slot, ids[start : start + chunk], start)
    # Other tokens, and back to before them.
    middle = len(ids) // 2
    got[middle + 2] = engine.prefill(slot, ids[middle : middle + 3], middle)
    got[len(ids) - 1] = engine.prefill(slot, ids[middle:], middle)
    return got


def agreement(got: Sequence[Mapping[int, Array]], wanted: Sequence[Array]) -> Agreement:
    """got: of each text, rows by the position that they follow; wanted: all rows of each."""
    cosines: list[float] = []
    agreeing = positions = 0
    for rows, expected in zip(got, wanted, strict=True):
        for at, row in rows.items():
            positions += 1
            if row.dtype == np.int32:
                agreeing += is_best(int(np.ravel(row)[0]), expected[at])
                continue
            exact = row.astype(np.float64)
            cosines.append(
                float(exact @ expected[at] / np.linalg.norm(exact) / np.linalg.norm(expected[at]))
            )
            agreeing += is_best(int(row.argmax()), expected[at])
    return Agreement(min(cosines) if cosines else None, agreeing, positions)


def is_best(token: int, expected: Array) -> bool:
    """Whether no other token is better in the reference, but for a tie."""
    return bool(expected[token] >= expected.max() - _TIE * expected.std())
