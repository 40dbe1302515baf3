"""Which files of a checkpoint hold its weights, and what is in them."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from compiler.errors import CompileError
from compiler.families import tensor_file
from compiler.families.family import some
from compiler.torch_file import TorchFile

# Which is looked for first, and its list of shards.
_FORMS: Final = (
    ("*.safetensors", "model.safetensors.index.json"),
    ("pytorch_model*.bin", "pytorch_model.bin.index.json"),
)
_SHARD: Final = re.compile(r"(.*)-(\d+)-of-(\d+)(\.\w+)")


def find(directory: Path) -> tuple[Path, ...]:
    """The weight files. Raises CompileError when there are none or a shard is missing."""
    for pattern, index_name in _FORMS:
        index = directory / index_name
        if index.is_file():
            return _listed(directory, index)
        found = sorted(directory.glob(pattern))
        if found:
            _check_numbers(found)
            return tuple(found)
    raise CompileError(f"{directory} holds neither *.safetensors nor pytorch_model*.bin")


def _listed(directory: Path, index: Path) -> tuple[Path, ...]:
    try:
        table = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(table.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CompileError(f"{index} is not an index of weights: {error!r}") from None
    if any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise CompileError(f"{index} names files outside its directory")
    _refuse_missing(directory, names)
    return tuple(directory / name for name in names)


def _check_numbers(found: Sequence[Path]) -> None:
    """Shards say in their names how many there are."""
    for path in found:
        match = _SHARD.fullmatch(path.name)
        if match:
            stem, digits, count, suffix = match[1], len(match[2]), match[3], match[4]
            names = [
                f"{stem}-{number:0{digits}d}-of-{count}{suffix}"
                for number in range(1, int(count) + 1)
            ]
            _refuse_missing(path.parent, names)
            return


def _refuse_missing(directory: Path, names: Sequence[str]) -> None:
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        shown = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        raise CompileError(
            f"{len(missing)} of {len(names)} weight files are missing in {directory}: {shown}"
        )


def as_safetensors(weights: Sequence[Path], directory: Path) -> tuple[Path, ...]:
    """The same files, those of PyTorch rewritten into `directory`. Raises CompileError."""
    made = []
    for path in weights:
        if path.suffix == ".bin":
            directory.mkdir(parents=True, exist_ok=True)
            target = directory / f"{path.stem}.safetensors"
            _rewrite(path, target)
            path = target
        made.append(path)
    return tuple(made)


def _rewrite(source: Path, target: Path) -> None:
    """One tensor is in memory at a time."""
    header: dict[str, Any] = {}
    end = 0
    with TorchFile(source) as file:
        for name, tensor in file.tensors.items():
            # Weights are computed in at most 32 bits.
            dtype = "F32" if tensor.dtype == "F64" else tensor.dtype
            start = end
            end += int(np.prod(tensor.shape, dtype=np.int64)) * tensor_file.item_bytes(dtype)
            header[name] = {
                "dtype": dtype,
                "shape": list(tensor.shape),
                "data_offsets": [start, end],
            }
        with target.open("wb") as out:
            tensor_file.write_header(out, header)
            for name in file.tensors:
                values = file.values(name)
                narrow = values.astype("<f4") if values.dtype == np.float64 else values
                out.write(narrow.data)


def check(
    weights: Sequence[Path], wanted: Mapping[str, tuple[int, ...]], optional: str, who: str
) -> None:
    """Raises CompileError unless the files hold the `wanted` shapes in a type that is converted,
    and beside them only names that match `optional`."""
    present = {name: e for path in weights for name, e in tensor_file.entries_in(path).items()}
    missing = wanted.keys() - present.keys()
    if missing:
        raise CompileError(f"the checkpoint lacks {some(missing)}")
    unknown = {n for n in present.keys() - wanted.keys() if not re.search(optional, n)}
    if unknown:
        raise CompileError(f"{who} has no tensors {some(unknown)}")
    for name, shape in wanted.items():
        entry = present[name]
        if entry.shape != shape:
            raise CompileError(
                f"tensor {name} is {list(entry.shape)}, the configuration asks for {list(shape)}"
            )
        types = ("I32",) if name.endswith((".qweight", ".qzeros")) else tensor_file.FLOATS
        if entry.dtype not in types:
            raise CompileError(f"tensor {name} is {entry.dtype}, must be {' or '.join(types)}")
