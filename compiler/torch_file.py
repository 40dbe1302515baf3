"""Reads the weights of a `pytorch_model.bin` without torch and without running what it holds.

Format (torch.save since 1.6): a zip file with NAME/data.pkl and, for each storage, NAME/data/KEY.
The pickle names storages by persistent id ("storage", class, KEY, device, elements) and makes
tensors of them by calling torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, …),
counted in elements. Source: torch/serialization.py and torch/_utils.py of PyTorch 2.
"""

import collections
import io
import pickle
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compiler.errors import CompileError

# Storage class: dtype of the elements as numpy holds them, and its name in a safetensors file.
_STORAGES: Final = {
    "DoubleStorage": ("<f8", "F64"),
    "FloatStorage": ("<f4", "F32"),
    "HalfStorage": ("<f2", "F16"),
    "BFloat16Storage": ("<u2", "BF16"),
    "LongStorage": ("<i8", "I64"),
    "IntStorage": ("<i4", "I32"),
    "ShortStorage": ("<i2", "I16"),
    "CharStorage": ("i1", "I8"),
    "ByteStorage": ("u1", "U8"),
    "BoolStorage": ("?", "BOOL"),
}
_MAX_PICKLE_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class _Kind:
    """A storage class that the pickle names."""

    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    kind: _Kind
    key: str
    elements: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A view of a storage; `offset` and `strides` count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """As safetensors files name it."""
        return _STORAGES[self.storage.kind.name][1]


class TorchFile:
    """One open file; a context manager. Raises CompileError for what it does not understand."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise CompileError(
                f"{path} cannot be read ({error}): only the zip format of PyTorch 1.6 and later is"
            ) from None
        try:
            self._root = self._find_root()
            self.tensors = self._read_tensors()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> "TorchFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def values(self, name: str) -> NDArray[Any]:
        """The tensor's elements, contiguous; those of bfloat16 are their bits (uint16)."""
        tensor = self.tensors[name]
        storage = tensor.storage
        dtype = np.dtype(_STORAGES[storage.kind.name][0])
        try:
            content = self._zip.read(f"{self._root}data/{storage.key}")
        except (KeyError, zipfile.BadZipFile, EOFError) as error:
            raise CompileError(f"{self._path}: storage of {name}: {error}") from None
        last = tensor.offset + sum(
            (size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)
        )
        whole = len(content) // dtype.itemsize
        if 0 not in tensor.shape and not 0 <= last < whole:
            raise CompileError(
                f"{self._path}: {name} ends at element {last} of a storage of {whole}"
            )
        base = np.frombuffer(content, dtype)[tensor.offset :]
        strides = tuple(stride * dtype.itemsize for stride in tensor.strides)
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(base, tensor.shape, strides))

    def _find_root(self) -> str:
        roots = [name for name in self._zip.namelist() if name.endswith("data.pkl")]
        if len(roots) != 1:
            raise CompileError(f"{self._path} is a zip file, but not one that torch.save wrote")
        root = roots[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in self._zip.namelist() and self._zip.read(order) != b"little":
            raise CompileError(f"{self._path} was written by a big-endian machine")
        return root

    def _read_tensors(self) -> dict[str, StoredTensor]:
        member = self._zip.getinfo(f"{self._root}data.pkl")
        if member.file_size > _MAX_PICKLE_BYTES:
            raise CompileError(
                f"{self._path}: its pickle has {member.file_size} bytes, at most "
                f"{_MAX_PICKLE_BYTES} are read"
            )
        try:
            found = _Unpickler(io.BytesIO(self._zip.read(member))).load()
        except CompileError as error:
            raise CompileError(f"{self._path}: {error}") from None
        except Exception as error:
            # A broken pickle fails in as many ways as there are instructions.
            raise CompileError(f"{self._path} holds a broken pickle: {error!r}") from None
        return dict(_flat(found, self._path))


def _flat(found: object, path: Path) -> Iterator[tuple[str, StoredTensor]]:
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict):
        raise CompileError(f"{path} holds a {type(found).__name__}, not a table of tensors")
    for name, value in found.items():
        if isinstance(name, str) and isinstance(value, StoredTensor):
            yield name, value


class _Unpickler(pickle.Unpickler):
    """Knows tensors and plain containers; anything else that the pickle names is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if module == "torch" and name in _STORAGES:
            return _Kind(name)
        raise CompileError(f"its pickle asks for {module}.{name}, which weights do not need")

    def persistent_load(self, pid: Any) -> _Storage:
        what, kind, key, _device, elements = pid
        if what != "storage" or not isinstance(kind, _Kind):
            raise CompileError(f"its pickle refers to {pid!r}")
        return _Storage(kind, str(key), int(elements))


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> StoredTensor:
    numbers = (offset, *shape, *strides)
    sound = all(isinstance(n, int) and n >= 0 for n in numbers) and len(shape) == len(strides)
    if not isinstance(storage, _Storage) or not sound:
        raise CompileError("its pickle describes a tensor that cannot be")
    return StoredTensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor: StoredTensor, *_: object) -> StoredTensor:
    return tensor
