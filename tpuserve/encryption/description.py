"""The part of a bmodel's description that says where weights are, and that they are encrypted.

Fields of the schema `bmodel.fbs` of the tpu-mlir project: a net's variant refers (field 4) to a
`CoeffMem`: address (0), SHA-256 (1), place in the binary part (2), names of the weights in it (3),
encrypt_mode (4; 1: the runtime hands the block to its decrypt function) and decrypt_size (5).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Mapping
from typing import BinaryIO, Final

from tpuserve.bmodel.flatbuffer import Buffer
from tpuserve.bmodel.flatbuffer import Table as Source
from tpuserve.bmodel.flatbuffer_writer import U32, U64, Bytes, Table, U64Pair, append
from tpuserve.encryption.errors import EncryptionError

HEADER_BYTES: Final = 64
# Smaller blocks hold nothing to hide; a token must fit into the place of one that does.
MIN_WEIGHTS_BYTES: Final = 256
_HEADER: Final = struct.Struct("<4I48s")
_ENCRYPTED_BY_CALLER: Final = 1


def weight_ranges(file: BinaryIO) -> list[tuple[int, int]]:
    """(offset in the file, bytes) of each block of weights, ascending. The file was read before.

    Raises EncryptionError when blocks overlap or are encrypted already.
    """
    file.seek(0)
    description_bytes = _HEADER.unpack(file.read(HEADER_BYTES))[2]
    binary = HEADER_BYTES + description_bytes
    places = set()
    for _, weights in _weights(Buffer(file.read(description_bytes)).root()):
        if weights.i32(4) != 0:
            raise EncryptionError(f"{file.name}: its weights are encrypted already")
        places.add((binary + weights.struct_u64(2, 0), weights.struct_u64(2, 1)))
    ranges = sorted(place for place in places if place[1] > 0)
    for (start, size), (following, _) in itertools.pairwise(ranges):
        if start + size > following:
            raise EncryptionError(
                f"{file.name}: blocks of weights overlap at byte {following} of the file"
            )
    return ranges


def with_tokens(beginning: bytes, token_bytes: int, sizes: Mapping[int, int]) -> bytes:
    """A header and description that tell the runtime to have all weights decrypted.

    beginning: header and description of the plain file. sizes: bytes of each block by its start in
    the binary part. A block then is `token_bytes` long, at the same start in the binary part, which
    begins where the returned bytes end.
    """
    magic, header_bytes, description_bytes, binary_bytes, reserved = _HEADER.unpack_from(beginning)
    description = bytearray(beginning[HEADER_BYTES : HEADER_BYTES + description_bytes])
    replaced: dict[int, int] = {}
    # The walk reads what was there; tables that are written go behind it.
    for reference, weights in _weights(Buffer(bytes(description)).root()):
        start, size = weights.struct_u64(2, 0), weights.struct_u64(2, 1)
        if sizes.get(start) != size:
            continue
        if weights.position not in replaced:
            replaced[weights.position] = append(description, _encrypted(weights, token_bytes))
        struct.pack_into("<I", description, reference, replaced[weights.position] - reference)
    description += bytes(-len(description) % 8)
    header = _HEADER.pack(magic, header_bytes, len(description), binary_bytes, reserved)
    return header + bytes(description)


def _weights(root: Source) -> Iterator[tuple[int, Source]]:
    """Each variant's table of weights, and where the offset stands that leads to it."""
    for net in root.tables(4):
        for variant in net.tables(3):
            reference, weights = variant.reference(4), variant.table(4)
            if reference is not None and weights is not None:
                yield reference, weights


def _encrypted(weights: Source, token_bytes: int) -> Table:
    names = [
        Table({0: Bytes(name.blob(0), text=True), 1: U64(name.u64(1)), 2: U64(name.u64(2))})
        for name in weights.tables(3)
    ]
    return Table(
        {
            0: U64(weights.u64(0)),
            1: Bytes(weights.blob(1)),
            2: U64Pair(weights.struct_u64(2, 0), token_bytes),
            3: names,
            4: U32(_ENCRYPTED_BY_CALLER),
            5: U64(weights.struct_u64(2, 1)),
        }
    )
