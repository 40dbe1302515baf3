"""Reads a bmodel file: a 64-byte header, a FlatBuffer that describes the model, binary data.

Header, little endian: u32 magic 0xFF55AAEE, header size, FlatBuffer size, binary size, 48 reserved
bytes. Field ids below are those of the schema `bmodel.fbs` of the tpu-mlir project, in which a
shape variant is a `NetParameter` (bmruntime calls it a stage).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from tpuserve.bmodel.flatbuffer import Buffer, FlatbufferError, Table
from tpuserve.bmodel.model import DTYPES, Bmodel, Net, Tensor, Variant, Weights

_HEADER: Final = struct.Struct("<4I48x")
_MAGIC: Final = 0xFF55AAEE


class BmodelFileError(ValueError):
    """The file cannot be read or is not a whole bmodel; the text names the file and the sizes."""


def read(path: Path | str) -> Bmodel:
    """Read the description; weights and instructions stay on disk. Raises BmodelFileError."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
            file_bytes = file.seek(0, 2)
            description_bytes, binary_bytes = _check_header(path, header, file_bytes)
            file.seek(_HEADER.size)
            description = file.read(description_bytes)
    except OSError as error:
        raise BmodelFileError(f"{path}: {error.strerror}") from error
    return _parse(path, description, file_bytes, binary_bytes)


def parse(name: Path, beginning: bytes, file_bytes: int) -> Bmodel:
    """`read` for a file of which only the beginning is at hand: header and description.

    name: for error texts. Raises BmodelFileError.
    """
    description_bytes, binary_bytes = _check_header(name, beginning[: _HEADER.size], file_bytes)
    description = beginning[_HEADER.size : _HEADER.size + description_bytes]
    return _parse(name, description, file_bytes, binary_bytes)


def _parse(path: Path, description: bytes, file_bytes: int, binary_bytes: int) -> Bmodel:
    description_bytes = len(description)
    try:
        root = Buffer(description).root()
        bmodel = _bmodel(root, file_bytes, binary_bytes)
    except FlatbufferError as error:
        raise BmodelFileError(
            f"{path}: the description of {description_bytes} bytes is corrupt or encrypted: {error}"
        ) from error
    if not bmodel.chip.startswith(("BM", "CV", "SG", "MARS")) or not bmodel.nets:
        raise BmodelFileError(
            f"{path}: the description of {description_bytes} bytes is corrupt or encrypted: "
            f"it names chip {bmodel.chip!r} and {len(bmodel.nets)} nets"
        )
    return bmodel


def _check_header(path: Path, header: bytes, file_bytes: int) -> tuple[int, int]:
    if len(header) < _HEADER.size:
        raise BmodelFileError(
            f"{path}: {file_bytes} bytes are too few; the header alone takes {_HEADER.size}"
        )
    magic, header_bytes, description_bytes, binary_bytes = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise BmodelFileError(
            f"{path} is not a bmodel: it starts with 0x{magic:08X}, not 0x{_MAGIC:08X}"
        )
    if header_bytes != _HEADER.size:
        raise BmodelFileError(
            f"{path}: the header says that it takes {header_bytes} bytes, {_HEADER.size} are known"
        )
    needed = header_bytes + description_bytes + binary_bytes
    if file_bytes < needed:
        raise BmodelFileError(
            f"{path} is truncated: it has {file_bytes} bytes, its header promises {needed}"
        )
    return description_bytes, binary_bytes


def _bmodel(root: Table, file_bytes: int, binary_bytes: int) -> Bmodel:
    kernel = root.table(6)
    return Bmodel(
        chip=root.string(3),
        version=root.string(1),
        created=root.string(2),
        devices=max(1, root.u32(7)),
        file_bytes=file_bytes,
        kernel_bytes=0 if kernel is None else _binary_bytes(kernel, 1, binary_bytes),
        nets=tuple(_net(net, binary_bytes) for net in root.tables(4)),
    )


def _net(table: Table, binary_bytes: int) -> Net:
    name = table.string(0)
    parameters = list(table.tables(3))
    if not parameters:
        raise FlatbufferError(f"net {name!r} has no shape variant")
    return Net(
        name=name,
        dynamic=any(parameter.i32(5) != 0 for parameter in parameters),
        address_mode=table.i32(5),
        variants=tuple(_variant(parameter, binary_bytes) for parameter in parameters),
    )


def _variant(table: Table, binary_bytes: int) -> Variant:
    return Variant(
        inputs=tuple(_tensor(tensor) for tensor in table.tables(0)),
        outputs=tuple(_tensor(tensor) for tensor in table.tables(1)),
        instruction_bytes=sum(
            _instruction_bytes(subnet, binary_bytes) for subnet in table.tables(12)
        ),
        # Sizes per group of neurons, where given, stand in for the one size.
        neuron_bytes=sum(table.u64s(14)) or table.u64(3),
        io_bytes=table.u64(18),
        weights=_weights(table.table(4), binary_bytes),
    )


def _instruction_bytes(subnet: Table, binary_bytes: int) -> int:
    if subnet.i32(0) != 0:  # runs on the host
        return 0
    if subnet.i32(5) != 0:
        # Bytes of intermediate representation, as the runtime allocates them; `model_tool --info`
        # takes the number for words and reports four times as much.
        return subnet.u32(7)
    return sum(
        _binary_bytes(group, 2, binary_bytes) + _binary_bytes(group, 3, binary_bytes)
        for group in subnet.tables(1)
    )


def _weights(table: Table | None, binary_bytes: int) -> Weights | None:
    if table is None:
        return None
    size = _binary_bytes(table, 2, binary_bytes)
    return Weights(sha256=table.blob(1).hex(), address=table.u64(0), size_bytes=size)


def _tensor(table: Table) -> Tensor:
    number = table.u32(1)
    shape = next(table.tables(5), None)
    return Tensor(
        name=table.string(0),
        dtype=DTYPES[number] if number < len(DTYPES) else f"type{number}",
        shape=() if shape is None else shape.u64s(0),
        address=table.u64(3),
    )


def _binary_bytes(table: Table, field: int, binary_bytes: int) -> int:
    """Size of a piece of the binary part (start and size within it)."""
    start, size = table.struct_u64(field, 0), table.struct_u64(field, 1)
    if start + size > binary_bytes:
        raise FlatbufferError(
            f"{size} bytes at {start} reach beyond the binary part of {binary_bytes} bytes"
        )
    return size
