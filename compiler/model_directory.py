"""Writes the model directory that the services read: bmodel, `config/`, `tpuserve.toml`."""

import hashlib
import json
import shutil
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
    """

    name: str
    bmodel_name: str
    slots: int
    shared_config: str | None = None


def write_model_directory(
    directory: Path,
    bmodel: Path,
    checkpoint: Checkpoint,
    layout: Layout,
    *,
    embedding: Path | None = None,
) -> None:
    """Replaces a bmodel, embedding table, configuration and tpuserve.toml that are already there;
    touches nothing else."""
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / layout.bmodel_name
    shutil.copyfile(bmodel, target)
    table = directory / EMBEDDING_NAME
    if embedding:
        shutil.copyfile(embedding, table)
    else:
        table.unlink(missing_ok=True)
    if layout.shared_config is None:
        _copy_config(directory / "config", checkpoint)
    entries = {
        "name": layout.name,
        "bmodel": layout.bmodel_name,
        "config": layout.shared_config or "config",
        "slots": layout.slots,
        "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
    }
    # JSON strings and integers are also TOML.
    lines = [f"{key} = {json.dumps(value)}" for key, value in entries.items()]
    text = "\n".join(["[model]", *lines, ""])
    (directory / "tpuserve.toml").write_text(text, encoding="utf-8")


def _copy_config(directory: Path, checkpoint: Checkpoint) -> None:
    directory.mkdir(exist_ok=True)
    for source in checkpoint.serving_files():
        target = directory / source.name
        if source.resolve() != target.resolve():
            shutil.copyfile(source, target)
