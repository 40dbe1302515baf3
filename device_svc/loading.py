"""From a model directory to what a device needs to know before it opens a chip."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from device_svc import chip_lock
from device_svc.engine import CoreEngine
from device_svc.swap import ModelPlan
from tpuserve import adapter as adapters
from tpuserve import bmodel, chips, encryption, model_dir
from tpuserve.images.rules import read_rules
from tpuserve.runtime_library import RuntimeLibrary

DEFAULT_SLOTS: Final = 4


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """chips: None for the first, as many as the model has parts. slots: None for those of
    tpuserve.toml, else by the bmodel. greedy: greedy_head draws on the chip.
    """

    library: RuntimeLibrary
    chips: tuple[int, ...] | None = None
    slots: int | None = None
    deterministic: bool = False
    greedy: bool = False
    key_file: Path | None = None


def plan_model(directory: Path, options: LoadOptions) -> ModelPlan:
    """Everything that can be checked without opening a chip. Raises OSError or ValueError."""
    model = model_dir.load(directory)
    parts = [_read_part(path, options.key_file) for path in model.bmodels]
    # Without either, the engine says what it misses.
    embedding = None if parts[0].nets.net("embedding") else model.embedding
    sha256 = _model_sha256(model, parts)
    adapter = None if model.adapter is None else adapters.load(model.adapter)
    if adapter is not None:
        # Another model to those who resume requests elsewhere.
        sha256 = model_dir.joined_sha256((sha256, adapter.sha256))
    # One for each chip: chips that share layers have equal parts of them.
    sharing = model.chips_per_layer
    memories = tuple(
        bmodel.memory_budget(part.nets).shared(sharing) for part in parts for _ in range(sharing)
    )
    group = _group(options.chips, model.chips)
    slots = options.slots or model.slots or _default_slots(memories[0].context_slots, len(parts))
    return ModelPlan(
        name=model.name,
        sha256=sha256,
        chips=group,
        slots=slots,
        memories=memories,
        weights=tuple(
            {sha256: size // sharing for sha256, size in bmodel.weight_blocks(part.nets).items()}
            for part in parts
            for _ in range(sharing)
        ),
        images=read_rules(model.config),
        # With an adapter the bmodel does not tell what the rows are.
        kv=None if adapter else bmodel.kv_identity(bmodel.joined([part.nets for part in parts])),
        changes_weights=adapter is not None,
        open_engine=functools.partial(
            _open,
            options.library,
            [part.source for part in parts],
            chips=group,
            slots=slots,
            embedding=embedding,
            vocab_size=_config_vocab_size(model.config),
            deterministic=options.deterministic,
            greedy=options.greedy,
            adapter=adapter,
        ),
    )


def _open(
    library: RuntimeLibrary,
    bmodels: Sequence[Path | encryption.Opened],
    *,
    chips: Sequence[int],
    slots: int,
    memories: Sequence[bmodel.MemoryBudget],
    embedding: Path | None,
    vocab_size: int,
    deterministic: bool,
    greedy: bool,
    adapter: adapters.Adapter | None,
) -> CoreEngine:
    """Raises EngineStartError."""
    # Each process has emulated chips of its own.
    shared = library.kind in ("pcie", "soc")
    with chip_lock.loading(chips) if shared else contextlib.nullcontext():
        return CoreEngine(
            bmodels,
            library.directory,
            emulator=library.emulator,
            chips=chips,
            slots=slots,
            memories=memories,
            embedding=embedding,
            vocab_size=vocab_size,
            deterministic=deterministic,
            greedy=greedy,
            # That driver's runtime takes weights from the file as they are.
            decrypt_whole=library.kind == "soc",
            adapter=adapter,
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """source: what the engine loads."""

    source: Path | encryption.Opened
    nets: bmodel.Bmodel


def _read_part(path: Path, key_file: Path | None) -> _Part:
    """Raises OSError or ValueError."""
    opened = encryption.unlock(path, key_file)
    if opened is None:
        return _Part(path, bmodel.read(path))
    return _Part(opened, encryption.read_bmodel(opened))


def _model_sha256(model: model_dir.ModelDir, parts: Sequence[_Part]) -> str:
    """Of the plain bmodels, and of the embedding beside them. Raises OSError or ValueError."""
    sources = [part.source for part in parts]
    if any(isinstance(source, Path) for source in sources):
        return model_dir.bmodel_sha256(model)
    # What a hash would find, decrypting finds: no need to read the files twice.
    hashes = [
        source.container.public.sha256
        for source in sources
        if isinstance(source, encryption.Opened)
    ]
    return model_dir.joined_sha256((*hashes, *model_dir.embedding_sha256(model)))


def _group(asked: tuple[int, ...] | None, parts: int) -> tuple[int, ...]:
    """One chip group. Raises ValueError unless it has a chip for each part of the model."""
    groups = chips.groups(asked, parts)
    if len(groups) > 1:
        raise ValueError(
            f"--devices names {len(asked or ())} chips, the model was compiled for {parts}: a "
            "device service runs one group"
        )
    return groups[0]


def _default_slots(batch: int, chips: int) -> int:
    """Enough that each chip can work on requests of its own."""
    return batch * chips if batch > 1 else max(DEFAULT_SLOTS, 2 * chips)


def _config_vocab_size(config: Path) -> int:
    """Rows of the embedding as config.json has them; 0 without that file or entry."""
    path = config / "config.json"
    if not path.exists():
        return 0
    try:
        size = json.loads(path.read_text(encoding="utf-8")).get("vocab_size", 0)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not a JSON object: {error}") from error
    if not isinstance(size, int) or size < 0:
        raise ValueError(f"{path}: vocab_size is {size!r}, must be a count")
    return size
