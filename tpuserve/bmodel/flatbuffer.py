"""A reader of FlatBuffers that trusts nothing it reads.

Format: a table starts with a signed offset back to its vtable; the vtable holds its own size, the
table's size and one 16-bit offset per field id, 0 when the field is absent. Strings, vectors and
tables are reached by unsigned 32-bit offsets from where the offset stands. Little endian.
Source: the FlatBuffers internals page, https://flatbuffers.dev/internals/.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator


class FlatbufferError(ValueError):
    """An offset or a length points outside the buffer."""


class Buffer:
    """Bounds-checked reads of little-endian numbers.

    `charge` counts what was visited: offsets may form a lattice in which a small file describes
    an endless number of tables, so a walk may not visit more elements than the buffer has bytes.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._budget = len(data)

    def charge(self, elements: int) -> None:
        self._budget -= elements
        if self._budget < 0:
            raise FlatbufferError("its tables refer to each other more often than it is long")

    def number(self, layout: str, position: int) -> int:
        try:
            value: int = struct.unpack_from(layout, self._data, self._checked(position))[0]
        except struct.error:
            raise FlatbufferError(f"offset {position} is outside {len(self._data)} bytes") from None
        return value

    def slice(self, position: int, length: int) -> bytes:
        if self._checked(position) + length > len(self._data):
            raise FlatbufferError(
                f"{length} bytes at offset {position} reach beyond {len(self._data)} bytes"
            )
        return self._data[position : position + length]

    def root(self) -> Table:
        return Table(self, self.number("<I", 0))

    def _checked(self, position: int) -> int:
        # struct would count a negative offset from the end.
        if position < 0:
            raise FlatbufferError(f"offset {position} is before the start")
        return position


class Table:
    """Fields by id; an absent field has its type's zero value unless a default is named."""

    def __init__(self, buffer: Buffer, position: int) -> None:
        buffer.charge(1)
        self._buffer = buffer
        self._position = position
        self._vtable = position - buffer.number("<i", position)
        self._vtable_bytes = buffer.number("<H", self._vtable)

    @property
    def position(self) -> int:
        """Where the table stands; tells tables apart that several offsets lead to."""
        return self._position

    def i32(self, field: int, default: int = 0) -> int:
        return self._scalar("<i", field, default)

    def u32(self, field: int) -> int:
        return self._scalar("<I", field, 0)

    def u64(self, field: int) -> int:
        return self._scalar("<Q", field, 0)

    def string(self, field: int) -> str:
        return self.blob(field).decode("utf-8", errors="replace")

    def blob(self, field: int) -> bytes:
        """A string or a vector of bytes."""
        start = self._target(field)
        if start is None:
            return b""
        length = self._buffer.number("<I", start)
        self._buffer.charge(length)
        return self._buffer.slice(start + 4, length)

    def struct_u64(self, field: int, index: int) -> int:
        """The `index`-th number of a struct of 64-bit numbers; 0 when the struct is absent."""
        start = self._field(field)
        return 0 if start is None else self._buffer.number("<Q", start + 8 * index)

    def table(self, field: int) -> Table | None:
        start = self._target(field)
        return None if start is None else Table(self._buffer, start)

    def tables(self, field: int) -> Iterator[Table]:
        for element in self._elements(field, 4):
            yield Table(self._buffer, element + self._buffer.number("<I", element))

    def reference(self, field: int) -> int | None:
        """Where the offset stands that leads to a table, string or vector."""
        return self._field(field)

    def u64s(self, field: int) -> tuple[int, ...]:
        return tuple(self._buffer.number("<Q", element) for element in self._elements(field, 8))

    def _elements(self, field: int, width: int) -> Iterator[int]:
        start = self._target(field)
        if start is None:
            return
        count = self._buffer.number("<I", start)
        self._buffer.charge(count)
        for index in range(count):
            yield start + 4 + width * index

    def _scalar(self, layout: str, field: int, default: int) -> int:
        start = self._field(field)
        return default if start is None else self._buffer.number(layout, start)

    def _target(self, field: int) -> int | None:
        start = self._field(field)
        return None if start is None else start + self._buffer.number("<I", start)

    def _field(self, field: int) -> int | None:
        entry = 4 + 2 * field
        if entry + 2 > self._vtable_bytes:
            return None
        offset = self._buffer.number("<H", self._vtable + entry)
        return None if offset == 0 else self._position + offset
