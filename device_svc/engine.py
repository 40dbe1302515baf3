"""The adapter over the C++ extension; nothing else imports it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from device_svc import _core
from device_svc.adapter_weights import adapter_weights
from device_svc.engine_api import (
    ChipReading,
    EngineFailure,
    EngineStartError,
    ModelShape,
    Rows,
    Sampled,
    Sampler,
    Sampling,
    SavedRows,
    SpoiledRow,
    StateShape,
    StateSource,
    TokenMask,
)
from device_svc.images import Image, VisionShape
from tpuserve import encryption
from tpuserve.adapter import Adapter, AdapterError
from tpuserve.bmodel import MemoryBudget

_INT_MAX: Final = 2**31 - 1
# With m groups of slots in a step, each of n parts works m of m + n - 1 turns.
_GROUPS_PER_CHIP: Final = 4
# The emulator reports no size; its own variable for one is hexadecimal.
_EMULATOR_MEMORY: Final = "0x100000000"
# Its first allocation lies so far above the beginning of its memory.
_EMULATOR_RESERVED: Final = 0x5100000


@dataclass(frozen=True, slots=True)
class _ArgmaxToken:
    token: int
    logprob: None = None
    top: tuple[tuple[int, float], ...] = ()


class _ArgmaxSampler:
    """The head has drawn already: nothing to remember."""

    def accept(self, token: int) -> None:
        pass


class CoreEngine:
    """`Engine` over the C++ extension. Raises EngineStartError."""

    def __init__(
        self,
        bmodels: Sequence[Path | encryption.Opened],
        library: Path,
        *,
        emulator: bool,
        chips: Sequence[int],
        slots: int,
        memories: Sequence[MemoryBudget],
        embedding: Path | None = None,
        vocab_size: int = 0,
        deterministic: bool = False,
        greedy: bool = False,
        decrypt_whole: bool = False,
        adapter: Adapter | None = None,
    ) -> None:
        """`bmodels` are the model's parts and `memories` what they need, one for each chip;
        encrypted ones are decrypted block by block on the way to the chip, or with `decrypt_whole`
        in host memory. `embedding` is a file in place of embedding nets. `vocab_size` stands in
        where the bmodels do not tell it. `deterministic` keeps every decode step to one shape
        variant of its nets, so that tokens never depend on load. `greedy` has the bmodel's
        greedy_head draw.
        """
        try:
            self._library = _core.Library(str(library), emulator=emulator)
            _check_chips(self._library, chips)
            for chip, memory in zip(chips, memories, strict=True):
                status = self._library.chip_status(chip)
                _check_memory(status, memory, slots, emulator=emulator)
            with contextlib.ExitStack() as stack:
                whole = decrypt_whole or not self._library.decrypts
                self._core = _core.Engine(
                    self._library,
                    [_source(part, stack, whole=whole) for part in bmodels],
                    chips=chips,
                    slots=slots,
                    deterministic=deterministic,
                    embedding=str(embedding or ""),
                    greedy=greedy,
                )
            _apply(adapter, self._core)
        except (_core.CoreError, encryption.EncryptionError, AdapterError) as error:
            raise EngineStartError(str(error)) from error
        if embedding is not None:
            _check_rows(embedding, self._core.spec, vocab_size)
        self._deterministic = deterministic
        self._parts = len(bmodels)
        self._shape = _shape_of(self._core.spec, vocab_size)
        # Of each slot: digests of the images that it has looked at, and how many it shows.
        self._encoded: list[list[str]] = [[] for _ in range(slots)]
        self._shown = [0] * slots

    @property
    def shape(self) -> ModelShape:
        return self._shape

    @property
    def runtime_version(self) -> str:
        return self._library.version

    @property
    def slots(self) -> int:
        return self._core.slots

    @property
    def decode_rows(self) -> int:
        # One part gains nothing from a second group in a step, and tokens would come later.
        groups = 1 if self._parts == 1 else min(self._core.groups, _GROUPS_PER_CHIP * self._parts)
        return self._core.spec.decode_rows * groups

    @property
    def decode_variants(self) -> tuple[tuple[int, int], ...]:
        # Several groups of slots, over several chips, have launches of their own.
        if self._deterministic or self._core.spec.decode_rows == 1 or self._core.groups > 1:
            return ()
        return tuple(self._core.spec.decode_variants)

    @property
    def launches(self) -> int:
        return self._core.launches

    @property
    def busy_s(self) -> Sequence[float]:
        return self._core.busy_s

    def prefill(
        self, slot: int, ids: NDArray[np.int32], position: int, *, last: bool
    ) -> Rows | None:
        try:
            row = self._core.prefill(slot, ids, position, last=last)
        except _core.CoreError as error:
            raise EngineFailure(str(error)) from error
        if row is None or self._shape.argmax:
            return row
        return cast("NDArray[np.float32]", row).reshape(1, -1)

    def decode(self, slots: Sequence[int], ids: NDArray[np.int32]) -> Rows:
        try:
            return self._core.decode(slots, ids)
        except _core.CoreError as error:
            raise EngineFailure(str(error)) from error

    def sampler(self, sampling: Sampling, prompt_ids: NDArray[np.int32]) -> Sampler:
        if self._shape.argmax:
            return _ArgmaxSampler()
        vocab_size = self._shape.vocab_size
        # Tokens that stand for images have no logit that a penalty could change.
        worded = prompt_ids[prompt_ids < vocab_size] if self._shape.vision else prompt_ids
        return _core.Sampler(_params_of(sampling), vocab_size, worded)

    def sample(
        self, rows: Rows, samplers: Sequence[Sampler], masks: Sequence[TokenMask | None] = ()
    ) -> Sequence[Sampled | SpoiledRow]:
        if self._shape.argmax:
            return [_ArgmaxToken(token) for token in rows.tolist()]
        drawn = _core.sample(
            cast("NDArray[np.float32]", rows), cast("Sequence[_core.Sampler]", samplers), masks
        )
        return [SpoiledRow(sampled.error) if sampled.error else sampled for sampled in drawn]

    @property
    def kv_row_bytes(self) -> int:
        return self._core.spec.kv_bytes_per_slot // self._shape.context_length

    def copy_prefix(self, source: int, target: int, tokens: int) -> None:
        try:
            self._core.copy_prefix(source, target, tokens)
        except _core.CoreError as error:
            raise EngineFailure(str(error)) from error
        if source != target and tokens:
            self._shown[target] = self._shown[source]
            self._encoded[target] = self._encoded[source][: self._shown[source]]

    def save(self, slot: int) -> SavedRows:
        try:
            data = self._core.save(slot)
        except _core.CoreError as error:
            raise EngineFailure(str(error)) from error
        return SavedRows(data.shape[2], data)

    def restore(self, slot: int, saved: SavedRows) -> None:
        try:
            self._core.restore(slot, saved.data, saved.tokens)
        except _core.CoreError as error:
            raise EngineFailure(str(error)) from error

    @property
    def states(self) -> StateSource:
        return _CoreStates(self._core)

    def set_images(self, slot: int, images: Sequence[Image]) -> None:
        if self._shape.vision is None:
            return
        encoded = self._encoded[slot]
        try:
            for index, image in enumerate(images):
                if encoded[index : index + 1] == [image.digest]:
                    continue
                # Whatever was behind it is lost.
                del encoded[index:]
                self._core.encode_image(slot, index, image.pixels, image.aspect_ratio_id)
                encoded.append(image.digest)
            self._core.show_images(slot, [image.position for image in images])
        except _core.CoreError as error:
            raise EngineFailure(str(error)) from error
        self._shown[slot] = len(images)

    def free(self, slot: int) -> None:
        self._core.free(slot)

    def wipe(self, slot: int) -> None:
        self._encoded[slot], self._shown[slot] = [], 0
        try:
            self._core.wipe(slot)
        except _core.CoreError as error:
            raise EngineFailure(str(error)) from error

    def chip_reading(self, chip: int) -> ChipReading:
        """Raises EngineFailure when the chip does not answer."""
        try:
            status = self._library.chip_status(chip)
        except _core.CoreError as error:
            raise EngineFailure(str(error)) from error
        return _reading(status)

    def close(self) -> None:
        self._core.close()


class _CoreStates:
    def __init__(self, core: _core.Engine) -> None:
        self._core = core

    @property
    def shape(self) -> StateShape:
        spec = self._core.spec
        return StateShape(
            layers=spec.layers,
            hidden_size=spec.hidden_size,
            kv_heads=spec.kv_heads,
            head_dim=spec.head_dim,
            dtype=spec.dtype,
        )

    def watch(self, slot: int, layers: Sequence[int]) -> None:
        self._core.watch(slot, layers)

    def watched(self, slot: int) -> NDArray[np.uint8]:
        return self._core.watched(slot)


def probe(
    library: Path, *, emulator: bool, chips: Sequence[int] | None = None
) -> tuple[str, list[ChipReading]]:
    """The runtime's version and a reading of each chip; needs no bmodel.

    chips: None for all that the runtime counts. Raises EngineStartError.
    """
    try:
        core = _core.Library(str(library), emulator=emulator)
        wanted = range(core.chip_count()) if chips is None else chips
        return core.version, [_reading(core.chip_status(chip)) for chip in wanted]
    except _core.CoreError as error:
        raise EngineStartError(str(error)) from error


def _source(
    bmodel: Path | encryption.Opened, stack: contextlib.ExitStack, *, whole: bool
) -> str | _core.EncryptedBmodel:
    """What the extension opens. The plaintext of an encrypted one lives as long as the stack."""
    if isinstance(bmodel, Path):
        return str(bmodel)
    file = stack.enter_context(encryption.runtime_file(bmodel, with_weights=whole))
    if whole:
        return file.path
    return _core.EncryptedBmodel(
        str(bmodel.container.path),
        file.path,
        token_prefix=file.token_prefix,
        block_bytes=file.block_bytes,
        read=file.read,
    )


def _apply(adapter: Adapter | None, core: _core.Engine) -> None:
    """Raises AdapterError."""
    if adapter is None:
        return
    memory_bytes = core.adapter_weights
    for path, data in adapter_weights(adapter, memory_bytes, core.spec.dtype):
        core.set_adapter_weight(path, data)


def _reading(status: _core.ChipStatus) -> ChipReading:
    return ChipReading(
        chip=status.chip,
        memory_total_bytes=status.memory_total_bytes,
        memory_used_bytes=status.memory_used_bytes,
        utilisation_ratio=status.utilisation_ratio,
        temperature_celsius=status.temperature_celsius,
        power_watts=status.power_watts,
        clock_hz=status.clock_hz,
    )


def _check_rows(embedding: Path, spec: _core.ModelSpec, vocab_size: int) -> None:
    """Where an argmax head hides the vocabulary, config.json tells it."""
    if spec.embedding_rows < vocab_size:
        raise EngineStartError(
            f"{embedding} has rows for {spec.embedding_rows} ids, config.json says {vocab_size}"
        )


def _check_chips(library: _core.Library, chips: Sequence[int]) -> None:
    """libbmlib may end the process when a chip that it lacks is opened."""
    count = library.chip_limit
    for chip in chips:
        if chip >= count:
            raise EngineStartError(
                f"there is no chip {chip}; this host has {count}, numbered from 0"
            )


def emulator_memory_bytes() -> int:
    """Memory of the emulated chip for bmodels, which it does not report."""
    total = int(os.environ.get("CMODEL_GLOBAL_MEM_SIZE", _EMULATOR_MEMORY), 16)
    return max(0, total - _EMULATOR_RESERVED)


def _check_memory(
    status: _core.ChipStatus, memory: MemoryBudget, slots: int, *, emulator: bool
) -> None:
    """Where the size is known. The runtime ends the process when it runs out of memory."""
    total = status.memory_total_bytes
    if total is None and emulator:
        total = emulator_memory_bytes()
    if total is None:
        return
    free = total - (status.memory_used_bytes or 0)
    needed = memory.total_bytes(slots)
    if needed > free:
        raise EngineStartError(
            f"the model needs {_mib(needed)} on chip {status.chip} ({_mib(memory.weights_bytes)} "
            f"for weights, {_mib(memory.neuron_bytes)} for scratch, {_slots_need(memory, slots)}); "
            f"{_mib(free)} of {_mib(total)} are free"
        )


def _slots_need(memory: MemoryBudget, slots: int) -> str:
    size = _mib(memory.context_bytes)
    if memory.context_slots > 1:
        return f"{size} for its {memory.context_slots} slots"
    return f"{size} for each of {slots} slots"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"


def _shape_of(spec: _core.ModelSpec, vocab_size: int) -> ModelShape:
    argmax = spec.head == "argmax"
    return ModelShape(
        context_length=spec.context_length,
        max_prompt_length=spec.max_prompt_length,
        prefill_chunk_tokens=spec.prefill_chunk,
        vocab_size=spec.vocab_size or vocab_size,
        argmax=argmax,
        features=tuple(sorted({*spec.features, "argmax-head" if argmax else "logits"})),
        history_chunk_tokens=spec.history_chunk,
        vision=_vision_of(spec.vision),
    )


def _vision_of(spec: _core.VisionSpec | None) -> VisionShape | None:
    if spec is None:
        return None
    return VisionShape(
        max_images=spec.max_images,
        max_tiles=spec.max_tiles,
        tile_tokens=spec.tile_tokens,
        image_size=spec.image_size,
        channels=spec.channels,
    )


def _params_of(sampling: Sampling) -> _core.SamplingParams:
    # Counts above the extension's int mean the same as its largest.
    return _core.SamplingParams(
        temperature=sampling.temperature,
        top_k=min(sampling.top_k, _INT_MAX),
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        penalty_window=min(sampling.penalty_window_tokens, _INT_MAX),
        logit_bias=dict(sampling.logit_bias),
        seed=sampling.seed,
        logprobs=-1 if sampling.logprobs is None else sampling.logprobs,
        banned_until_min_tokens=sampling.banned_ids,
        min_tokens=min(sampling.min_tokens, _INT_MAX),
    )
