"""What the scheduler wants done: moves of KV rows, and the steps that launch nets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from device_svc.engine_api import Engine, Sampled
from device_svc.resident import Resident


@dataclass(frozen=True, slots=True)
class Copy:
    """Make rows [0, tokens) of source all that target holds; within one slot it only forgets."""

    source: int
    target: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Save:
    """Keep the slot's rows with the resident, which has lost it."""

    slot: int
    resident: Resident


@dataclass(frozen=True, slots=True)
class Restore:
    """Put the resident's saved rows into its new slot."""

    slot: int
    resident: Resident


Move: TypeAlias = Copy | Save | Restore


@dataclass(frozen=True, slots=True)
class PrefillStep:
    """Put fill_ids[position : position + n] into the slot; `last` ends them."""

    resident: Resident
    ids: NDArray[np.int32]
    position: int
    last: bool


@dataclass(frozen=True, slots=True)
class DecodeStep:
    """One token more for each resident."""

    residents: Sequence[Resident]


Step: TypeAlias = PrefillStep | DecodeStep

Result: TypeAlias = Sampled | ValueError | None
"""Of one resident: the drawn token; None when none was due; the error that hurts it alone."""


def run_moves(engine: Engine, moves: Iterable[Move]) -> None:
    """In order. Raises EngineFailure."""
    for move in moves:
        if isinstance(move, Copy):
            if move.tokens:
                engine.copy_prefix(move.source, move.target, move.tokens)
            else:
                engine.free(move.target)
        elif isinstance(move, Save):
            move.resident.saved = engine.save(move.slot)
        else:
            saved, move.resident.saved = move.resident.saved, None
            assert saved is not None
            engine.restore(move.slot, saved)


def run_step(engine: Engine, step: Step) -> list[Result]:
    """One result per resident of the step. Raises EngineFailure."""
    if isinstance(step, PrefillStep):
        return [_prefill(engine, step)]
    try:
        return list(_decode(engine, step.residents))
    except ValueError as error:
        if len(step.residents) == 1:
            return [error]
    # The engine has refused the batch and changed no slot: find out whose fault it was.
    return [_decode_alone(engine, resident) for resident in step.residents]


def _prefill(engine: Engine, step: PrefillStep) -> Result:
    resident = step.resident
    due = step.last and not resident.replaying
    try:
        row = engine.prefill(resident.slot, step.ids, step.position, last=due)
    except ValueError as error:
        return error
    return None if row is None else engine.sample(row, (resident.request.sampler,))[0]


def _decode_alone(engine: Engine, resident: Resident) -> Result:
    try:
        return _decode(engine, (resident,))[0]
    except ValueError as error:
        return error


def _decode(engine: Engine, residents: Sequence[Resident]) -> Sequence[Sampled | None]:
    """Raises ValueError when the engine refuses an argument."""
    ids = np.array([resident.ids[-1] for resident in residents], dtype=np.int32)
    rows = engine.decode([resident.slot for resident in residents], ids)
    due = [index for index, resident in enumerate(residents) if not resident.replaying]
    samplers = [residents[index].request.sampler for index in due]
    if len(due) == len(residents):
        return engine.sample(rows, samplers)
    drawn: list[Sampled | None] = [None] * len(residents)
    if due:
        for index, token in zip(due, engine.sample(rows[due], samplers), strict=True):
            drawn[index] = token
    return drawn
