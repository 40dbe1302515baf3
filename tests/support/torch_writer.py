"""Writes files as torch.save does, without torch."""

from __future__ import annotations

import io
import json
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.tiny_checkpoints import TinyCheckpoint

_KINDS = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "uint16": "BFloat16Storage",
    "int64": "LongStorage",
    "bool": "BoolStorage",
}


@dataclass(frozen=True)
class View:
    """A tensor that looks at a part of `storage` [elements], as a transposed or sliced one does."""

    storage: NDArray[Any]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Key:
    kind: str
    key: str
    elements: int


def save(path: Path, tensors: Mapping[str, NDArray[Any] | View], *, root: str = "archive") -> None:
    """uint16 arrays are the bits of bfloat16."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        table: OrderedDict[str, Any] = OrderedDict()
        for number, (name, tensor) in enumerate(tensors.items()):
            view = tensor if isinstance(tensor, View) else _whole(tensor)
            key = _Key(_KINDS[str(view.storage.dtype)], str(number), view.storage.size)
            file.writestr(f"{root}/data/{number}", view.storage.tobytes())
            table[name] = _Tensor((key, view.offset, view.shape, view.strides))
        file.writestr(f"{root}/data.pkl", _pickled(table))
        file.writestr(f"{root}/byteorder", "little")
        file.writestr(f"{root}/version", "3\n")


def save_shards(tiny: TinyCheckpoint, directory: Path) -> list[str]:
    """The checkpoint as its publisher may have it: config.json and two files, which are named."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(tiny.config))
    names = sorted(tiny.weights)
    files = [f"pytorch_model-{part:05}-of-00002.bin" for part in (1, 2)]
    for file, chosen in zip(files, (names[::2], names[1::2]), strict=True):
        tensors = {name: tiny.weights[name].astype(np.float16) for name in chosen}
        save(directory / file, tensors, root="pytorch_model")
    return files


def _whole(values: NDArray[Any]) -> View:
    ordered = np.array(values, order="C")
    strides = tuple(step // values.itemsize for step in ordered.strides)
    return View(ordered.ravel(), 0, values.shape, strides)


class _Tensor:
    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self._arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (*self._arguments, False, OrderedDict())


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, _Key):
            kind = getattr(sys.modules["torch"], value.kind)
            return ("storage", kind, value.key, "cpu", value.elements)
        return None


def _pickled(table: object) -> bytes:
    """With modules of torch's names in place while the pickler looks names up."""
    modules = {name: types.ModuleType(name) for name in ("torch", "torch._utils")}
    for kind in _KINDS.values():
        setattr(modules["torch"], kind, type(kind, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2() -> None:
        raise NotImplementedError

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    modules["torch._utils"].__dict__["_rebuild_tensor_v2"] = _rebuild_tensor_v2
    sys.modules.update(modules)
    try:
        out = io.BytesIO()
        _Pickler(out, 2).dump(table)
        return out.getvalue()
    finally:
        for name in modules:
            del sys.modules[name]
