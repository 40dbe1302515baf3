"""What the scheduler wants done: moves of KV rows, and the steps that launch nets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from device_svc import token_masks
from device_svc.engine_api import Engine, EngineFailure, Rows, Sampled, SpoiledRow, TokenMask
from device_svc.images import Image
from device_svc.resident import Resident
from device_svc.token_masks import Complete, NextTokens, Stuck


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


@dataclass(frozen=True, slots=True)
class Wipe:
    """Free the slot and zero its rows."""

    slot: int


@dataclass(frozen=True, slots=True)
class Look:
    """Show the slot the images of the text that it will hold."""

    slot: int
    images: tuple[Image, ...]


Move: TypeAlias = Copy | Save | Restore | Wipe | Look


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

Result: TypeAlias = Sampled | Complete | Stuck | ValueError | None
"""Of one resident: the drawn token; None when none was due; the end of its output format, or that
the format leaves no token; the error that hurts it alone."""


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
        elif isinstance(move, Wipe):
            engine.wipe(move.slot)
        elif isinstance(move, Look):
            engine.set_images(move.slot, move.images)
        else:
            saved, move.resident.saved = move.resident.saved, None
            assert saved is not None
            engine.restore(move.slot, saved)


def run_step(engine: Engine, step: Step, pool: Executor | None = None) -> list[Result]:
    """One result per resident of the step. pool: finds masks meanwhile. Raises EngineFailure."""
    if isinstance(step, PrefillStep):
        return [_prefill(engine, step, pool)]
    try:
        results = list(_decode(engine, step.residents, pool))
        if len(results) > 1 and all(isinstance(result, SpoiledRow) for result in results):
            # Not one request's doing.
            raise EngineFailure(f"all {len(results)} requests of a step: {results[0]}")
        return results
    except ValueError as error:
        if len(step.residents) == 1:
            return [error]
    # The engine has refused the batch and changed no slot: find out whose fault it was.
    return [_decode_alone(engine, resident) for resident in step.residents]


def _prefill(engine: Engine, step: PrefillStep, pool: Executor | None) -> Result:
    resident = step.resident
    due = step.last and not resident.replaying
    masks = token_masks.start((resident.request.matcher,) if due else (), pool)
    try:
        row = engine.prefill(resident.slot, step.ids, step.position, last=due)
    except ValueError as error:
        return error
    finally:
        next_tokens = masks()
    return None if row is None else _draw(engine, row, (resident,), next_tokens)[0]


def _decode_alone(engine: Engine, resident: Resident) -> Result:
    try:
        return _decode(engine, (resident,), None)[0]
    except ValueError as error:
        return error


def _decode(
    engine: Engine, residents: Sequence[Resident], pool: Executor | None
) -> Sequence[Result]:
    """Raises ValueError when the engine refuses an argument."""
    ids = np.array([resident.ids[-1] for resident in residents], dtype=np.int32)
    due = [index for index, resident in enumerate(residents) if not resident.replaying]
    masks = token_masks.start([residents[index].request.matcher for index in due], pool)
    try:
        rows = engine.decode([resident.slot for resident in residents], ids)
    finally:
        next_tokens = masks()
    if len(due) == len(residents):
        return _draw(engine, rows, residents, next_tokens)
    results: list[Result] = [None] * len(residents)
    if due:
        drawing = [residents[index] for index in due]
        for index, result in zip(due, _draw(engine, rows[due], drawing, next_tokens), strict=True):
            results[index] = result
    return results


def _draw(
    engine: Engine,
    rows: Rows,
    residents: Sequence[Resident],
    next_tokens: Sequence[NextTokens | None],
) -> Sequence[Result]:
    """One of next_tokens for each row. Those that have ended draw nothing."""
    samplers = [resident.request.sampler for resident in residents]
    if all(allowed is None for allowed in next_tokens):
        return engine.sample(rows, samplers)
    results: list[Result] = [
        allowed if isinstance(allowed, (Complete, Stuck)) else None for allowed in next_tokens
    ]
    drawing = [index for index, result in enumerate(results) if result is None]
    if drawing:
        masks = [cast("TokenMask | None", next_tokens[index]) for index in drawing]
        sampled = engine.sample(rows[drawing], [samplers[index] for index in drawing], masks)
        for index, one in zip(drawing, sampled, strict=True):
            stuck = not isinstance(one, SpoiledRow) and one.token < 0
            results[index] = Stuck("output_format: no token is left") if stuck else one
    return results
