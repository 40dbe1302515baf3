"""What the vendor runtime opens in place of an encrypted bmodel: a file in memory only.

The runtime takes a path and a function that decrypts. It reads a block of weights from the file,
hands it to the function, copies what comes back to the chip and frees it: one block is in memory at
a time. So the file in memory holds all but the weights, and in the place of each block a token that
tells the function which one to decrypt. Nothing is written to a disk.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tpuserve import bmodel
from tpuserve.encryption.container import Opened
from tpuserve.encryption.description import HEADER_BYTES, with_tokens
from tpuserve.encryption.errors import TamperedError

_TOKEN: Final = struct.Struct("<16sQ")


@dataclass(frozen=True, slots=True)
class RuntimeFile:
    """path: of the file in memory. token_prefix: what every token begins with, 16 bytes; the
    block's index follows, 8 bytes, little endian. block_bytes: sizes of the blocks; empty when the
    file holds the weights themselves.
    """

    path: str
    token_prefix: bytes
    block_bytes: tuple[int, ...]
    _opened: Opened
    _sections: tuple[int, ...]

    def read(self, block: int, target: memoryview) -> None:
        """Decrypt a block of weights. Raises TamperedError, OSError."""
        self._opened.read(self._sections[block], target)


def read_bmodel(opened: Opened) -> bmodel.Bmodel:
    """What the plain file says of itself. Raises TamperedError, BmodelFileError."""
    container = opened.container
    return bmodel.parse(container.path, _first_section(opened), container.plain_bytes)


@contextlib.contextmanager
def runtime_file(opened: Opened, *, with_weights: bool) -> Iterator[RuntimeFile]:
    """The file exists as long as the block, or as the runtime has it open.

    with_weights: for a runtime that decrypts nothing: the whole model is in memory until the end of
    the block. Raises TamperedError, OSError.
    """
    descriptor = os.memfd_create("bmodel", os.MFD_CLOEXEC)
    try:
        prefix = secrets.token_bytes(16)
        if with_weights:
            blocks: tuple[int, ...] = ()
            _write_plain(opened, descriptor)
        else:
            blocks = tuple(i for i, section in enumerate(opened.sections) if section.weights)
            _write_tokens(opened, descriptor, prefix, blocks)
        sizes = tuple(opened.sections[index].size_bytes for index in blocks)
        yield RuntimeFile(f"/proc/self/fd/{descriptor}", prefix, sizes, opened, blocks)
    finally:
        os.close(descriptor)


def _write_plain(opened: Opened, descriptor: int) -> None:
    view = _writable(descriptor, opened.container.plain_bytes)
    for index, start in enumerate(_starts(opened)):
        opened.read(index, view[start : start + opened.sections[index].size_bytes])


def _write_tokens(opened: Opened, descriptor: int, prefix: bytes, blocks: tuple[int, ...]) -> None:
    first = _first_section(opened)
    (description_bytes,) = struct.unpack_from("<I", first, 8)
    plain_beginning = HEADER_BYTES + description_bytes
    starts = _starts(opened)
    sizes = {starts[i] - plain_beginning: opened.sections[i].size_bytes for i in blocks}
    beginning = with_tokens(first[:plain_beginning], _TOKEN.size, sizes)
    moved = len(beginning) - plain_beginning
    view = _writable(descriptor, opened.container.plain_bytes + moved)
    view[: len(first) + moved] = beginning + first[plain_beginning:]
    for index in range(1, len(opened.sections)):
        if index not in blocks:
            start = starts[index] + moved
            opened.read(index, view[start : start + opened.sections[index].size_bytes])
    for block, index in enumerate(blocks):
        start = starts[index] + moved
        view[start : start + _TOKEN.size] = _TOKEN.pack(prefix, block)


def _starts(opened: Opened) -> list[int]:
    """Where each section begins in the plain file."""
    sizes = [section.size_bytes for section in opened.sections]
    return [0, *itertools.accumulate(sizes[:-1])]


def _first_section(opened: Opened) -> bytes:
    """Header, description and what follows them up to the first block of weights."""
    size_bytes = opened.sections[0].size_bytes
    if opened.sections[0].weights or size_bytes < HEADER_BYTES:
        raise TamperedError(f"{opened.container.path} does not begin as a bmodel does")
    data = bytearray(size_bytes)
    opened.read(0, memoryview(data))
    return bytes(data)


def _writable(descriptor: int, size_bytes: int) -> memoryview:
    """The file's bytes; what nobody writes stays a hole and takes no memory."""
    os.ftruncate(descriptor, size_bytes)
    return memoryview(mmap.mmap(descriptor, size_bytes))
