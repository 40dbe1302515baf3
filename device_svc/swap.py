"""What it takes to change the resident model: which ones are allowed, and whether they fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeAlias

from device_svc.engine_api import ChipReading, Engine
from device_svc.engine_swap import Exchange, ModelEngine
from device_svc.prefix_cache import PrefixMode
from tpuserve.bmodel import KvIdentity, MemoryBudget
from tpuserve.errors import InvalidArgument, Overloaded, PermissionDenied
from tpuserve.images.rules import ImageRules


class OpenWithin(Protocol):
    def __call__(self, *, memories: Sequence[MemoryBudget]) -> Engine:
        """memories: what is needed on each chip beside what is there already."""


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """A model whose files are read and checked; nothing of it is on a chip yet.

    chips, memories and weights are one for each part of it. weights: bytes of the blocks of weights
    by SHA-256. kv: None where rows cannot be compared. images: None for a model that reads
    text only. changes_weights: on the chip they are not what the bmodel has, so that nobody else
    may share them.
    """

    name: str
    sha256: str
    chips: tuple[int, ...]
    slots: int
    memories: tuple[MemoryBudget, ...]
    weights: tuple[dict[str, int], ...]
    kv: KvIdentity | None
    open_engine: OpenWithin
    images: ImageRules | None = None
    changes_weights: bool = False

    @property
    def weight_bytes(self) -> int:
        return sum(size for part in self.weights for size in part.values())

    def shared_weights(self, other: ModelPlan) -> tuple[int, ...]:
        """Bytes of blocks that both have on each chip, where the runtime keeps one copy of them."""
        return tuple(
            sum(size for sha256, size in own.items() if sha256 in others)
            for own, others in zip(self.weights, other.weights, strict=True)
        )


PlanModel: TypeAlias = Callable[[Path], ModelPlan]
"""Reads and hashes a model directory. Raises OSError or ValueError."""


@dataclass(frozen=True, slots=True)
class SwapConfig:
    """roots: model directories may lie in these, or be these. resident: what the device starts
    with. chip_bytes: memory of a chip that does not report it, None if unknown.
    """

    roots: tuple[Path, ...]
    plan: PlanModel
    resident: ModelPlan
    chip_bytes: int | None = None


def allowed_directory(asked: str, roots: Sequence[Path]) -> Path:
    """The directory, links resolved. Raises PermissionDenied outside of all roots."""
    if not asked:
        raise InvalidArgument("model_directory is empty", field="model_directory")
    for root in roots:
        # A relative one counts from each root; an absolute one replaces it here.
        found = (root / asked).resolve()
        if found.is_relative_to(root) and found.is_dir():
            return found
    raise PermissionDenied(
        f"model_directory {asked!r} is no directory below one that this device may load from"
    )


def check_expected(plan: ModelPlan, sha256: str) -> None:
    if sha256 and sha256 != plan.sha256:
        raise InvalidArgument(
            f"the bmodel has the SHA-256 {plan.sha256}, expected was {sha256}",
            field="bmodel_sha256",
        )


def exchange_for(
    old: ModelPlan,
    new: ModelPlan,
    mode: PrefixMode,
    readings: Sequence[ChipReading],
    chip_bytes: int | None,
) -> Exchange:
    """How to go from one to the other; readings: of each chip of the device.

    Raises Overloaded, naming the numbers, when `new` does not fit even alone, and InvalidArgument
    when it has another number of parts than there are chips.
    """
    if len(new.memories) != len(readings):
        raise InvalidArgument(
            f"model {new.name} was compiled for {len(new.memories)} chips, this device has "
            f"{len(readings)}",
            field="model_directory",
        )
    shared = new.shared_weights(old)
    # All chips are checked, so that what does not fit is refused.
    fits = [
        _fits_beside(old, new, part, reading, chip_bytes) for part, reading in enumerate(readings)
    ]
    alongside = all(fits) and not (old.changes_weights or new.changes_weights)
    return Exchange(
        old=_engine(old, (0,) * len(shared)),
        new=_engine(new, shared if alongside else (0,) * len(shared)),
        alongside=alongside,
        keep_rows=keeps_rows(old.kv, new.kv, mode),
    )


def _fits_beside(
    old: ModelPlan, new: ModelPlan, part: int, reading: ChipReading, chip_bytes: int | None
) -> bool:
    total = reading.memory_total_bytes or chip_bytes
    if total is None:
        # Running out of memory would end the process.
        return False
    memory = new.memories[part]
    old_bytes = old.memories[part].total_bytes(old.slots)
    new_bytes = memory.total_bytes(new.slots)
    used = reading.memory_used_bytes
    free = total - (old_bytes if used is None else used)
    if new_bytes > free + old_bytes:
        raise Overloaded(
            f"model {new.name} needs {new_bytes} bytes on chip {reading.chip}, which has {total}; "
            f"{free + old_bytes} are free without model {old.name}"
        )
    # Besides, an engine of its own may be opened beside it: see `device_svc.engine_swap`.
    again_bytes = new_bytes - memory.weights_bytes - memory.neuron_bytes
    return (
        new_bytes - new.shared_weights(old)[part] <= free
        and new_bytes + again_bytes <= free + old_bytes
    )


def _engine(model: ModelPlan, resident_weights: Sequence[int]) -> ModelEngine:
    beside = [
        replace(memory, weights_bytes=memory.weights_bytes - resident)
        for memory, resident in zip(model.memories, resident_weights, strict=True)
    ]
    again = [replace(memory, weights_bytes=0) for memory in model.memories]
    return ModelEngine(
        open=lambda: model.open_engine(memories=beside),
        open_again=lambda: model.open_engine(memories=again),
        scratch_bytes=tuple(memory.neuron_bytes for memory in model.memories),
    )


def keeps_rows(old: KvIdentity | None, new: KvIdentity | None, mode: PrefixMode) -> bool:
    """Whether rows of the one are what `mode` allows to reuse in the other."""
    if old is None or new is None or mode is PrefixMode.OFF:
        return False
    return old.same_bits(new) if mode is PrefixMode.EXACT else old.same_numbers(new)
