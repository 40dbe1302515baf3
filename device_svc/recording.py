"""What one request's layers compute, collected step by step.

A request with a `Recorder` is an ordinary one to the scheduler. Around each of its steps the engine
is told to copy hidden states; its KV rows are fetched once, after its last step.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor

from device_svc.engine_api import Engine, StateSource
from device_svc.recorder import Recorder
from device_svc.resident import Resident
from device_svc.steps import PrefillStep, Result, Step, run_step


def run_recorded_step(engine: Engine, step: Step, pool: Executor | None = None) -> list[Result]:
    """`run_step`, with an eye on the residents that are recorded. Raises EngineFailure."""
    residents = (step.resident,) if isinstance(step, PrefillStep) else step.residents
    states = engine.states
    if states is None or all(resident.request.recorder is None for resident in residents):
        return run_step(engine, step, pool)
    for resident, recorder in _recorded(residents):
        if recorder.with_hidden:
            states.watch(resident.slot, recorder.layers)
    try:
        results = run_step(engine, step, pool)
        failed = {r.slot for r, result in zip(residents, results, strict=True) if _hurts(result)}
        for resident, recorder in _recorded(residents):
            if resident.slot not in failed:
                last = _is_last(step, resident)
                _record(engine, states, resident, recorder, last=last)
        return results
    finally:
        for resident, _ in _recorded(residents):
            states.watch(resident.slot, ())


def _recorded(residents: Sequence[Resident]) -> list[tuple[Resident, Recorder]]:
    return [(r, r.request.recorder) for r in residents if r.request.recorder is not None]


def _hurts(result: Result) -> bool:
    return isinstance(result, ValueError)


def _is_last(step: Step, resident: Resident) -> bool:
    """Whether the token that this step draws ends the request; recorded ones have no stop ids."""
    if isinstance(step, PrefillStep) and not step.last:
        return False
    return len(resident.ids) + 1 >= resident.request.max_tokens


def _record(
    engine: Engine, states: StateSource, resident: Resident, recorder: Recorder, *, last: bool
) -> None:
    if recorder.with_hidden:
        recorder.hidden.append(states.watched(resident.slot))
    if recorder.with_kv and last:
        recorder.kv_rows = engine.save(resident.slot).data[list(recorder.layers)]
