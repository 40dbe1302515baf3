"""Encrypts a model directory: its bmodels. Tokenizer files and tpuserve.toml stay readable."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tpuserve import model_dir
from tpuserve.encryption.container import Public
from tpuserve.encryption.errors import EncryptionError
from tpuserve.encryption.key import Key
from tpuserve.encryption.unlocking import is_encrypted
from tpuserve.encryption.writer import encrypt_file

# Weights in other forms: they must not get out beside the encrypted ones.
_WEIGHTS_SUFFIXES: Final = frozenset(
    {".bin", ".bmodel", ".gguf", ".npz", ".onnx", ".pt", ".pth", ".safetensors"}
)
_TOML: Final = "tpuserve.toml"
_CONFIG_LINE: Final = re.compile(r"\s*config\s*=")


@dataclass(frozen=True, slots=True)
class Encrypted:
    """What was made: encrypted bmodels, and files of the model directory that were left out."""

    bmodels: tuple[tuple[Path, Public], ...]
    left_out: tuple[Path, ...]


def encrypt_directory(source: Path, target: Path, key: Key) -> Encrypted:
    """Make `target` a model directory like `source`, which is only read.

    Raises EncryptionError, ModelDirError, BmodelFileError, OSError; `target` is not there then.
    """
    model = model_dir.load(source)
    plain = sorted(model.path.glob("*.bmodel"))
    for path in plain:
        if is_encrypted(path):
            raise EncryptionError(f"{path} is encrypted already")
    table = model.path / "embedding.bin"
    if table.exists():
        raise EncryptionError(
            f"{table} would stay readable: compile the model with the embedding in the bmodel"
        )
    if model.adapter is not None:
        raise EncryptionError(f"{model.adapter} would stay readable: encrypt the model without it")
    try:
        target.mkdir()
    except FileExistsError:
        raise EncryptionError(f"{target} exists; name a directory that is to be made") from None
    try:
        inside = model.path in model.config.parents
        _copy_toml(model.path / _TOML, target / _TOML, with_config=inside)
        config = model.config.relative_to(model.path) if inside else Path("config")
        left_out = tuple(_copy_config(model.config, target / config))
        made = tuple((path, encrypt_file(path, target / path.name, key)) for path in plain)
    except BaseException:
        shutil.rmtree(target)
        raise
    return Encrypted(made, left_out)


def _copy_toml(source: Path, target: Path, *, with_config: bool) -> None:
    """Without the line that names a configuration outside of the directory."""
    if not source.exists():
        return
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if with_config or not _CONFIG_LINE.match(line)]
    target.write_text("".join(kept), encoding="utf-8")


def _copy_config(source: Path, target: Path) -> Iterator[Path]:
    """Yields what was not copied."""
    target.mkdir(parents=True)
    for file in sorted(source.rglob("*")):
        if file.is_dir():
            continue
        if file.suffix in _WEIGHTS_SUFFIXES:
            yield file
            continue
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
