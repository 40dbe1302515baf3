"""Writes FlatBuffers front to back: a table, then all that its offsets lead to.

Format: https://flatbuffers.dev/internals/. Offsets are unsigned, so what a field refers to stands
behind it; numbers are aligned to their size.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class U32:
    value: int


@dataclass(frozen=True, slots=True)
class U64:
    value: int


@dataclass(frozen=True, slots=True)
class U64Pair:
    """A struct of two numbers; it stands in the table itself."""

    first: int
    second: int


@dataclass(frozen=True, slots=True)
class Bytes:
    """A vector of bytes; `text` ends with a zero that does not count."""

    value: bytes
    text: bool = False


@dataclass(frozen=True, slots=True)
class U64s:
    values: Sequence[int]


@dataclass(frozen=True, slots=True)
class Table:
    """Values by field number of the schema."""

    fields: Mapping[int, Value]


Value: TypeAlias = "U32 | U64 | U64Pair | Bytes | U64s | Sequence[Table]"


def build(root: Table) -> bytes:
    writer = _Writer()
    writer.reserve(4)
    writer.point(0, writer.table(root))
    return bytes(writer.data)


def append(data: bytearray, table: Table) -> int:
    """Put a table and all that it refers to behind `data`; returns where the table is."""
    return _Writer(data).table(table)


class _Writer:
    def __init__(self, data: bytearray | None = None) -> None:
        self.data = bytearray() if data is None else data

    def reserve(self, size: int) -> int:
        start = len(self.data)
        self.data += bytes(size)
        return start

    def align(self, size: int, *, offset: int = 0) -> None:
        """Until `offset` bytes further on is a multiple of `size`."""
        self.reserve(-(len(self.data) + offset) % size)

    def point(self, field: int, target: int) -> None:
        struct.pack_into("<I", self.data, field, target - field)

    def table(self, table: Table) -> int:
        """Its vtable, itself, then what it refers to; returns where it is."""
        offsets, size = _layout(table)
        entries = [0] * (max(offsets, default=-1) + 1)
        for number, offset in offsets.items():
            entries[number] = offset
        self.align(2)
        vtable = len(self.data)
        self.data += struct.pack(f"<{2 + len(entries)}H", 4 + 2 * len(entries), size, *entries)
        self.align(8)
        start = self.reserve(size)
        struct.pack_into("<i", self.data, start, start - vtable)
        for number, value in table.fields.items():
            self._field(start + offsets[number], value)
        return start

    def _field(self, at: int, value: Value) -> None:
        if isinstance(value, U32):
            struct.pack_into("<I", self.data, at, value.value)
        elif isinstance(value, U64):
            struct.pack_into("<Q", self.data, at, value.value)
        elif isinstance(value, U64Pair):
            struct.pack_into("<2Q", self.data, at, value.first, value.second)
        elif isinstance(value, Bytes):
            self.align(4)
            self.point(at, len(self.data))
            self.data += struct.pack("<I", len(value.value)) + value.value
            self.reserve(int(value.text))
        elif isinstance(value, U64s):
            self.align(8, offset=4)
            self.point(at, len(self.data))
            self.data += struct.pack(f"<I{len(value.values)}Q", len(value.values), *value.values)
        else:
            self.align(4)
            self.point(at, len(self.data))
            self.data += struct.pack("<I", len(value))
            elements = self.reserve(4 * len(value))
            for index, element in enumerate(value):
                self.point(elements + 4 * index, self.table(element))


def _layout(table: Table) -> tuple[dict[int, int], int]:
    """Offset of each field in the table, and its size: 64-bit numbers first, at 8."""
    offsets: dict[int, int] = {}
    at = 8
    for number, value in table.fields.items():
        if isinstance(value, (U64, U64Pair)):
            offsets[number] = at
            at += 16 if isinstance(value, U64Pair) else 8
    for number in table.fields.keys() - offsets.keys():
        offsets[number] = at
        at += 4
    return offsets, at
