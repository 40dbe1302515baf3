"""A model directory: a bmodel, or one for each chip of a group, `config/` and `tpuserve.toml`.

my-model/
├── my-model.bmodel
├── embedding.bin    of a bmodel without embedding nets: [ids, hidden] in the model's type
├── config/          tokenizer files, chat template, generation_config.json
└── tpuserve.toml    optional:
    [model]
    name = "my-model"          default: the directory's name
    bmodel = "my-model.bmodel" default: the only *.bmodel
    config = "config"
    slots = 4                  sequences that are resident at once
    sha256 = "…"               of the bmodel; checked before loading
    embedding_sha256 = "…"     of embedding.bin, the same
    tool_parser = "qwen"       format of the model's calls; default: by its chat template
    reasoning_parser = "think" format of its reasoning; the same
    adapter = "adapter"        directory of a LoRA adapter, for a bmodel that takes one

A model that was compiled for several chips has lists: bmodel = ["m.chip0.bmodel", "m.chip1.bmodel"]
in the order of its layers, and as many sha256. One that was compiled for chips which share each
layer says so: chips_per_layer = 2.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EMBEDDING: Final = "embedding.bin"

_KEYS: Final[dict[str, tuple[type, ...]]] = {
    "name": (str,),
    "bmodel": (str, list),
    "config": (str,),
    "slots": (int,),
    "chips_per_layer": (int,),
    "sha256": (str, list),
    "embedding_sha256": (str,),
    "tool_parser": (str,),
    "reasoning_parser": (str,),
    "adapter": (str,),
}


class ModelDirError(ValueError):
    """The directory is not a model directory; the text names the file and what is wrong."""


@dataclass(frozen=True, slots=True)
class ModelDir:
    """Paths are absolute. `slots` and the parsers are None where the file is silent.

    bmodels: one for each chip of a group, in the order of their layers. sha256s: theirs, empty
    where the file is silent. embedding: None where no such file is beside them or in `config`,
    where the vendor's converter puts it; a bmodel with embedding nets does not need it.
    """

    path: Path
    name: str
    bmodels: tuple[Path, ...]
    config: Path
    slots: int | None
    sha256s: tuple[str, ...] = ()
    chips_per_layer: int = 1
    embedding: Path | None = None
    embedding_sha256: str | None = None
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    adapter: Path | None = None

    @property
    def chips(self) -> int:
        """Chips of a group."""
        return len(self.bmodels) * self.chips_per_layer

    @property
    def bmodel(self) -> Path:
        """Of a model for one chip. Raises ModelDirError for one of several."""
        if len(self.bmodels) > 1:
            raise ModelDirError(f"{self.path} holds a model for {len(self.bmodels)} chips, not 1")
        return self.bmodels[0]

    @property
    def sha256(self) -> str | None:
        """The model's, as `bmodel_sha256` computes it; None where the file is silent."""
        if self.embedding is None:
            return joined_sha256(self.sha256s) if self.sha256s else None
        if not self.sha256s or self.embedding_sha256 is None:
            return None
        return joined_sha256((*self.sha256s, self.embedding_sha256))


def load(path: Path | str) -> ModelDir:
    """Read the directory's layout; opens no bmodel. Raises ModelDirError."""
    root = Path(path).resolve()
    if not root.is_dir():
        raise ModelDirError(f"{root} is not a directory")
    table = _read_table(root / "tpuserve.toml")
    bmodels = tuple(root / name for name in _strings(table, "bmodel")) or (_only_bmodel(root),)
    sha256s = _strings(table, "sha256")
    config = (root / table.get("config", "config")).resolve()
    for bmodel in bmodels:
        if not bmodel.is_file():
            raise ModelDirError(f"{bmodel} does not exist")
    if sha256s and len(sha256s) != len(bmodels):
        raise ModelDirError(
            f"{root / 'tpuserve.toml'}: {len(sha256s)} sha256 for {len(bmodels)} bmodels"
        )
    if not config.is_dir():
        raise ModelDirError(f"{config} is not a directory; tokenizer files belong there")
    slots = table.get("slots")
    if slots is not None and slots < 1:
        raise ModelDirError(f"{root / 'tpuserve.toml'}: slots is {slots}, must be at least 1")
    return ModelDir(
        path=root,
        name=table.get("name", root.name),
        bmodels=bmodels,
        config=config,
        slots=slots,
        sha256s=sha256s,
        embedding=_embedding(root, config, table),
        embedding_sha256=table.get("embedding_sha256"),
        chips_per_layer=max(1, table.get("chips_per_layer", 1)),
        tool_parser=table.get("tool_parser"),
        reasoning_parser=table.get("reasoning_parser"),
        adapter=root / table["adapter"] if "adapter" in table else None,
    )


def bmodel_sha256(model: ModelDir) -> str:
    """SHA-256 of the bmodel in hex, of several files that of their SHA-256 in lines; raises
    ModelDirError when tpuserve.toml names another one. An embedding beside the bmodels is the last
    of the files.

    The vendor runtime loads a bmodel with corrupted weights without complaint, so this is the only
    check that catches them.
    """
    found = tuple(_file_sha256(path) for path in model.bmodels)
    for path, expected, actual in zip(model.bmodels, model.sha256s, found, strict=False):
        if expected != actual:
            raise _corrupt(path, actual, expected)
    return joined_sha256((*found, *embedding_sha256(model)))


def embedding_sha256(model: ModelDir) -> tuple[str, ...]:
    """SHA-256 in hex of the embedding's file, where there is one; raises ModelDirError when
    tpuserve.toml names another one."""
    if model.embedding is None:
        return ()
    actual = _file_sha256(model.embedding)
    if model.embedding_sha256 not in (None, actual):
        raise _corrupt(model.embedding, actual, model.embedding_sha256)
    return (actual,)


def _corrupt(path: Path, actual: str, expected: str | None) -> ModelDirError:
    return ModelDirError(
        f"{path} is corrupt: its SHA-256 is {actual}, tpuserve.toml says {expected}"
    )


def joined_sha256(hashes: Iterable[str]) -> str:
    """A model's, from those of its files in order."""
    hashes = tuple(hashes)
    if len(hashes) == 1:
        return hashes[0]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _embedding(root: Path, config: Path, table: dict[str, Any]) -> Path | None:
    """Raises ModelDirError where tpuserve.toml knows of a file that is not there."""
    for path in (root / EMBEDDING, config / EMBEDDING):
        if path.is_file():
            return path
    if "embedding_sha256" in table:
        raise ModelDirError(f"{root / EMBEDDING} does not exist")
    return None


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _strings(table: dict[str, Any], key: str) -> tuple[str, ...]:
    """A string or a list of them; none where the key is missing. Raises ModelDirError."""
    value = table.get(key, [])
    values = [value] if isinstance(value, str) else value
    if key in table and (not values or not all(isinstance(each, str) for each in values)):
        raise ModelDirError(
            f"tpuserve.toml: {key} is {value!r}, must be a string or a list of strings"
        )
    return tuple(values)


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
            names = " or ".join(kind.__name__ for kind in expected)
            raise ModelDirError(f"{path}: {key} is {value!r}, must be of type {names}")
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
