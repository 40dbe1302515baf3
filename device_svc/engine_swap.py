"""Exchanges the engine of the engine thread for another one, between two steps.

The chip is never left without a model: where both fit, the new engine is opened and warmed up
before the old one is closed; where they do not, the old one is opened again if the new one fails.

libbmrt keeps one scratch memory for all runtimes of a process, as large as the most that one of
them asks for. When loading or unloading changes that maximum, the memory moves, and runtimes that
were loaded before go on at its old place: they compute garbage without an error. An engine that
this happened to is opened a second time before it is closed, so that the weights stay on the chip.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from device_svc.engine_api import Engine, OpenEngine, SavedRows
from device_svc.scheduler import Scheduler

_log = logging.getLogger(__name__)

Started: TypeAlias = tuple[Engine, Scheduler]
Start: TypeAlias = Callable[[OpenEngine], Started]
"""Opens an engine, warms it up and gives it a scheduler; closes it again when that fails."""


@dataclass(frozen=True, slots=True)
class ModelEngine:
    """How to open a model's engine: beside what is on the chip, and beside an engine of its own.

    scratch_bytes: what its nets share, on each chip.
    """

    open: OpenEngine
    open_again: OpenEngine
    scratch_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Exchange:
    """alongside: whether both fit on the chips. keep_rows: whether KV rows of the old engine are
    those that the new one would make.
    """

    old: ModelEngine
    new: ModelEngine
    alongside: bool
    keep_rows: bool


@dataclass(frozen=True, slots=True)
class Exchanged:
    """engine: which serves from now on: the new one, or with `error` one of the old model.
    kept_tokens: KV rows that it took over. pause_s: how long no engine was ready.
    """

    engine: Engine
    kept_tokens: int = 0
    pause_s: float = 0.0
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Rows:
    """KV rows of ids, int32 [n], in host memory."""

    ids: NDArray[np.int32]
    key: str | None
    saved: SavedRows


def exchange(
    asked: Exchange, engine: Engine, scheduler: Scheduler, start: Start
) -> tuple[Scheduler, Exchanged]:
    """No request lives. Returns the scheduler of the engine that serves from now on.

    Raises what `start` raises when no engine can be opened, with all closed.
    """
    rows: list[_Rows] = []
    if asked.keep_rows or not asked.alongside or _moves(asked.new, asked.old):
        # For the new engine, or for one of the old model that takes the place of this one.
        rows = [
            _Rows(kept.ids, kept.key, engine.save(kept.slot)) for kept in scheduler.kept_prefixes
        ]
    begun_s = time.monotonic()
    started: Started | None = None
    error: Exception | None = None
    try:
        started = start(asked.new.open) if asked.alongside else None
    except Exception as failure:
        if not _moves(asked.new, asked.old):
            return scheduler, Exchanged(engine, error=failure)
        # Loading has moved the scratch memory.
        error = failure
        begun_s = time.monotonic()
        started = _started_or_close(start, asked.old.open_again, engine)
        engine.close()
    else:
        begun_s = begun_s if started is None else time.monotonic()
        engine.close()
        if started is None:
            started, error = _load(asked, start)
        elif _moves(asked.old, asked.new):
            # Unloading has moved it.
            moved, _ = started
            started = _started_or_close(start, asked.new.open_again, moved)
            moved.close()
    opened, fresh = started
    fresh.continue_after(scheduler)
    kept_tokens = _restore(rows, opened, fresh) if asked.keep_rows or error else 0
    return fresh, Exchanged(opened, kept_tokens, time.monotonic() - begun_s, error)


def _moves(larger: ModelEngine, other: ModelEngine) -> bool:
    """Whether coming or going of the first moves the scratch memory of the other on a chip."""
    sizes = zip(larger.scratch_bytes, other.scratch_bytes, strict=True)
    return any(one > beside for one, beside in sizes)


def _load(asked: Exchange, start: Start) -> tuple[Started, Exception | None]:
    try:
        return start(asked.new.open), None
    except Exception as failure:
        _log.error("the new model failed: the old one is loaded again", exc_info=failure)
        return start(asked.old.open), failure


def _started_or_close(start: Start, open_engine: OpenEngine, other: Engine) -> Started:
    try:
        return start(open_engine)
    except BaseException:
        other.close()
        raise


def _restore(rows: Sequence[_Rows], engine: Engine, scheduler: Scheduler) -> int:
    """As far as there are slots and these are long enough; those used last before others."""
    kept_tokens = 0
    for slot, each in enumerate(reversed(rows[: engine.slots])):
        tokens = scheduler.adopt(slot, each.ids, each.key)
        if tokens:
            engine.restore(slot, replace(each.saved, tokens=tokens))
            kept_tokens += tokens
    return kept_tokens
