"""Writes the model directory that the services read: bmodels, `config/`, `tpuserve.toml`."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.checkpoint import Checkpoint

# Where the table of a bmodel without embedding nets is, beside the bmodel.
EMBEDDING_NAME = "embedding.bin"


@dataclass(frozen=True, slots=True)
class Layout:
    """How the directory is to look.

    shared_config: path of an existing config directory, relative to the model directory; then none
    is written.
    slots: resident sequences that device_svc holds by default.
    chips: bmodels; of several, each has its chip's place in the group in its file name.
    sharing: chips that run a bmodel together.
    """

    name: str
    bmodel_name: str
    slots: int
    shared_config: str | None = None
    chips: int = 1
    sharing: int = 1

    @property
    def bmodel_names(self) -> list[str]:
        if self.chips == 1:
            return [self.bmodel_name]
        stem = self.bmodel_name.removesuffix(".bmodel")
        return [f"{stem}.chip{chip}.bmodel" for chip in range(self.chips)]


def write_model_directory(
    directory: Path,
    bmodels: Sequence[Path],
    checkpoint: Checkpoint,
    layout: Layout,
    *,
    embedding: Path | None = None,
) -> None:
    """Replaces bmodels, embedding table, configuration and tpuserve.toml that are already there;
    touches nothing else."""
    directory.mkdir(parents=True, exist_ok=True)
    targets = [directory / name for name in layout.bmodel_names]
    for bmodel, target in zip(bmodels, targets, strict=True):
        shutil.copyfile(bmodel, target)
    table = directory / EMBEDDING_NAME
    if embedding:
        shutil.copyfile(embedding, table)
    else:
        table.unlink(missing_ok=True)
    if layout.shared_config is None:
        _copy_config(directory / "config", checkpoint)
    entries: dict[str, object] = {
        "name": layout.name,
        "bmodel": _one_or_list(layout.bmodel_names),
        "config": layout.shared_config or "config",
        "slots": layout.slots,
        "sha256": _one_or_list([_sha256(target) for target in targets]),
    }
    if embedding:
        entries["embedding_sha256"] = _sha256(table)
    if layout.sharing > 1:
        entries["chips_per_layer"] = layout.sharing
    # JSON strings, integers and lists of them are also TOML.
    lines = [f"{key} = {json.dumps(value)}" for key, value in entries.items()]
    text = "\n".join(["[model]", *lines, ""])
    (directory / "tpuserve.toml").write_text(text, encoding="utf-8")


def _one_or_list(values: list[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else values


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _copy_config(directory: Path, checkpoint: Checkpoint) -> None:
    directory.mkdir(exist_ok=True)
    for source in checkpoint.serving_files():
        target = directory / source.name
        if source.resolve() != target.resolve():
            shutil.copyfile(source, target)
