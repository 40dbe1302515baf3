"""The parts of a bmodel as plain values; sizes in bytes, addresses as the compiler chose them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

# bmruntime's data type numbers, in order. A 4-bit element takes half a byte.
DTYPES: Final = (
    "float32",
    "float16",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "bfloat16",
    "int4",
    "uint4",
)
_DTYPE_BITS: Final = dict(zip(DTYPES, (32, 16, 8, 8, 16, 16, 32, 32, 16, 4, 4), strict=True))


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output. In a dynamic net `shape` holds the largest sizes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    address: int

    @property
    def size_bytes(self) -> int:
        """0 for a data type that is not known."""
        elements = 1
        for dimension in self.shape:
            elements *= dimension
        return elements * _DTYPE_BITS.get(self.dtype, 0) // 8


@dataclass(frozen=True, slots=True)
class Weights:
    """One block of weights in the file; blocks of equal `sha256` are loaded once."""

    sha256: str
    address: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Variant:
    """One shape variant of a net and the memory that it needs."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    instruction_bytes: int
    neuron_bytes: int
    io_bytes: int
    weights: Weights | None


@dataclass(frozen=True, slots=True)
class Net:
    """A net; `address_mode` 1 keeps inputs and outputs in memory of their own."""

    name: str
    dynamic: bool
    address_mode: int
    variants: tuple[Variant, ...]

    @property
    def io_alone(self) -> bool:
        return self.address_mode == 1


@dataclass(frozen=True, slots=True)
class Bmodel:
    """A whole file. `kernel_bytes` is the kernel module inside, 0 when it was removed."""

    chip: str
    version: str
    created: str
    devices: int
    file_bytes: int
    kernel_bytes: int
    nets: tuple[Net, ...]

    def net(self, name: str) -> Net | None:
        return next((net for net in self.nets if net.name == name), None)


def joined(parts: Sequence[Bmodel]) -> Bmodel:
    """The parts of a model on several chips as one: the nets of all, sizes added up."""
    return replace(
        parts[0],
        devices=sum(part.devices for part in parts),
        file_bytes=sum(part.file_bytes for part in parts),
        kernel_bytes=sum(part.kernel_bytes for part in parts),
        nets=tuple(net for part in parts for net in part.nets),
    )
