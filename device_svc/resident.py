"""A request that holds a slot, and the steps that move it on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from device_svc.engine_api import Engine, Sampled
from device_svc.request import Finish, Request
from device_svc.slots import Lease


class Resident:
    """Mutable state of a running request; owns its lease.

    length: tokens in the slot's KV. generated: completion tokens so far, replayed ones included.
    last_id: the completion token that the next decode step puts into the KV. last_token_s: when it
    came, on the scheduler's clock.
    """

    __slots__ = ("_lease", "generated", "last_id", "last_token_s", "length", "request", "slot")

    def __init__(self, request: Request, lease: Lease) -> None:
        self.request = request
        self._lease = lease
        self.slot = lease.slot
        self.length = 0
        self.generated = 0
        self.last_id = 0
        self.last_token_s = 0.0

    @property
    def replaying(self) -> bool:
        """Whether the next completion token was delivered before, so that none is drawn."""
        return self.generated < len(self.request.resume_ids)

    def replay(self) -> None:
        """Take the next resume id as the token of this step."""
        self.last_id = self.request.resume_ids[self.generated]
        self.request.sampler.accept(self.last_id)
        self.generated += 1

    def append(self, token: int, *, context_length: int) -> Finish | None:
        """Take a drawn token; says whether it ends the request."""
        self.last_id = token
        self.generated += 1
        if token in self.request.stop_ids:
            return Finish.STOP
        total = len(self.request.prompt_ids) + self.generated
        if self.generated >= self.request.max_tokens or total >= context_length:
            return Finish.LENGTH
        return None

    def close(self) -> None:
        self._lease.close()


@dataclass(frozen=True, slots=True)
class PrefillStep:
    """Put prompt_ids[position : position + n] into the slot; `last` ends the prompt."""

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
    ids = np.array([resident.last_id for resident in residents], dtype=np.int32)
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
