"""A model directory: one bmodel, its `config/` and `tpuserve.toml`.

my-model/
├── my-model.bmodel
├── config/          tokenizer files, chat template, generation_config.json
└── tpuserve.toml    optional:
    [model]
    name = "my-model"          default: the directory's name
    bmodel = "my-model.bmodel" default: the only *.bmodel
    config = "config"
    slots = 4                  sequences that are resident at once
    sha256 = "…"               of the bmodel; checked before loading
    tool_parser = "qwen"       format of the model's calls; default: by its chat template
    reasoning_parser = "think" format of its reasoning; the same
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_KEYS = {
    "name": str,
    "bmodel": str,
    "config": str,
    "slots": int,
    "sha256": str,
    "tool_parser": str,
    "reasoning_parser": str,
}


class ModelDirError(ValueError):
    """The directory is not a model directory; the text names the file and what is wrong."""


@dataclass(frozen=True, slots=True)
class ModelDir:
    """Paths are absolute. What follows them is None where the file is silent."""

    path: Path
    name: str
    bmodel: Path
    config: Path
    slots: int | None
    sha256: str | None
    tool_parser: str | None = None
    reasoning_parser: str | None = None


def load(path: Path | str) -> ModelDir:
    """Read the directory's layout; opens no bmodel. Raises ModelDirError."""
    root = Path(path).resolve()
    if not root.is_dir():
        raise ModelDirError(f"{root} is not a directory")
    table = _read_table(root / "tpuserve.toml")
    bmodel = root / table["bmodel"] if "bmodel" in table else _only_bmodel(root)
    config = (root / table.get("config", "config")).resolve()
    if not bmodel.is_file():
        raise ModelDirError(f"{bmodel} does not exist")
    if not config.is_dir():
        raise ModelDirError(f"{config} is not a directory; tokenizer files belong there")
    slots = table.get("slots")
    if slots is not None and slots < 1:
        raise ModelDirError(f"{root / 'tpuserve.toml'}: slots is {slots}, must be at least 1")
    return ModelDir(
        path=root,
        name=table.get("name", root.name),
        bmodel=bmodel,
        config=config,
        slots=slots,
        sha256=table.get("sha256"),
        tool_parser=table.get("tool_parser"),
        reasoning_parser=table.get("reasoning_parser"),
    )


def bmodel_sha256(model: ModelDir) -> str:
    """SHA-256 of the bmodel in hex; raises ModelDirError when tpuserve.toml names another one.

    The vendor runtime loads a bmodel with corrupted weights without complaint, so this is the only
    check that catches them.
    """
    digest = hashlib.sha256()
    with model.bmodel.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    found = digest.hexdigest()
    if model.sha256 is not None and model.sha256 != found:
        raise ModelDirError(
            f"{model.bmodel} is corrupt: its SHA-256 is {found}, tpuserve.toml says {model.sha256}"
        )
    return found


def _read_table(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelDirError(f"{path}: {error}") from error
    for section in document:
        if section != "model":
            raise ModelDirError(f"{path}: unknown section [{section}]; only [model] is known")
    table = document.get("model", {})
    if not isinstance(table, dict):
        raise ModelDirError(f"{path}: [model] must be a table")
    for key, value in table.items():
        expected = _KEYS.get(key)
        if expected is None:
            raise ModelDirError(f"{path}: unknown key {key}; known are {', '.join(_KEYS)}")
        if not isinstance(value, expected) or isinstance(value, bool):
            raise ModelDirError(f"{path}: {key} is {value!r}, must be of type {expected.__name__}")
    return table


def _only_bmodel(root: Path) -> Path:
    found = sorted(root.glob("*.bmodel"))
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise ModelDirError(
            f"{root} holds {len(found)} bmodels ({names}); exactly one is needed, or name it in "
            "tpuserve.toml"
        )
    return found[0]
