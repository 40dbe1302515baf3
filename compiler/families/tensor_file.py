"""Copies tensors between safetensors files row by row, without decoding them.

Format: u64 little-endian header length, a JSON object {name: {dtype, shape, data_offsets}}, then
the bytes (offsets count from the end of the header). Source: the safetensors format description.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from compiler.errors import CompileError

_PIECE_BYTES = 1 << 24
_ITEM_BYTES: Final = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
# Types of weights that are converted.
FLOATS: Final = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Rows:
    """A tensor made of rows (first axis) of another, in the order of `ranges`; None for all."""

    name: str
    ranges: tuple[range, ...] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """What a file says of one of its tensors."""

    dtype: str
    shape: tuple[int, ...]


def item_bytes(dtype: str) -> int:
    return _ITEM_BYTES[dtype]


def entries_in(path: Path) -> dict[str, Entry]:
    """The tensors of a file. Raises CompileError when it is not a safetensors file."""
    with path.open("rb") as file:
        header = _read_header(file.read(8), file, path)
    return {name: Entry(entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}


def names_in(path: Path) -> list[str]:
    """The names of a file's tensors. Raises CompileError when it is not a safetensors file."""
    return list(entries_in(path))


def rewrite(source: Path, target: Path, wanted: Mapping[str, Sequence[Rows]]) -> None:
    """Write the tensors that `wanted` makes of those in `source`; the others are left out.

    Every row of a source tensor must be used once. Memory does not grow with the tensors. Raises
    CompileError when a shape does not fit or the file is cut short.
    """
    with source.open("rb") as file:
        entries = _read_header(file.read(8), file, source)
        _write(target, file, file.tell(), entries, wanted)


def _read_header(length: bytes, file: BinaryIO, path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(file.read(int.from_bytes(length, "little")))
    except (ValueError, OverflowError, MemoryError):
        raise CompileError(f"{path} is not a safetensors file") from None
    if not isinstance(entries, dict):
        raise CompileError(f"{path} is not a safetensors file")
    entries.pop("__metadata__", None)
    return entries


def _write(
    target: Path,
    source: BinaryIO,
    data_start: int,
    entries: Mapping[str, Any],
    wanted: Mapping[str, Sequence[Rows]],
) -> None:
    header: dict[str, Any] = {}
    pieces: list[tuple[int, int, range]] = []
    end = 0
    for name, entry in entries.items():
        results = wanted.get(name, ())
        if not results:
            continue
        _check_rows(name, entry["shape"][0], results)
        first, last = entry["data_offsets"]
        row_bytes = (last - first) // entry["shape"][0]
        for result in results:
            ranges = result.ranges or (range(entry["shape"][0]),)
            count = sum(map(len, ranges))
            header[result.name] = {
                "dtype": entry["dtype"],
                "shape": [count, *entry["shape"][1:]],
                "data_offsets": [end, end + count * row_bytes],
            }
            end += count * row_bytes
            pieces += [(data_start + first, row_bytes, rows) for rows in ranges]
    with target.open("wb") as out:
        write_header(out, header)
        for start, row_bytes, rows in pieces:
            # Neighbouring rows are one copy.
            spans = [rows] if rows.step == 1 else [range(row, row + 1) for row in rows]
            for span in spans:
                source.seek(start + span.start * row_bytes)
                _copy(source, out, len(span) * row_bytes)


def write_header(out: BinaryIO, header: Mapping[str, Any]) -> None:
    """The beginning of a file; the tensors' bytes follow at the offsets that it names."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    out.write(len(text).to_bytes(8, "little") + text)


def _copy(source: BinaryIO, target: BinaryIO, size_bytes: int) -> None:
    while size_bytes:
        piece = source.read(min(size_bytes, _PIECE_BYTES))
        if not piece:
            raise CompileError(f"{source.name} ends before its last tensor")
        target.write(piece)
        size_bytes -= len(piece)


def _check_rows(name: str, rows: int, results: Sequence[Rows]) -> None:
    ranges = [part for result in results for part in result.ranges or ()]
    used = sum(map(len, ranges))
    if ranges and (used != rows or max(part[-1] for part in ranges) >= rows):
        raise CompileError(f"tensor {name} has {rows} rows, the configuration asks for {used}")
