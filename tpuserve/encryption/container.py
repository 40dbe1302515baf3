"""The encrypted file.

    8 bytes    magic
    4 bytes    length of the header, little endian
    header     JSON, readable without the key: see `Header`
    chunks     of each section in turn: AES-256-GCM ciphertext and its tag of 16 bytes

A section is a range of the plain bmodel; sections are in the file's order and fill it. Weights are
sections of their own, so that they can be decrypted one block at a time. A chunk is `chunk_bytes`
of plaintext, the last one of a section what is left. Its nonce is the section's index (4 bytes, big
endian) and the chunk's index in it (8 bytes); its associated data is the SHA-256 of all that stands
before the chunks. A changed header, a chunk in another place or of another file, and a missing end
are therefore found, and no nonce is used twice under one data key (see `tpuserve.encryption.key`).
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tpuserve.encryption.errors import EncryptionError, TamperedError, WrongKeyError
from tpuserve.encryption.key import Key

MAGIC: Final = b"tpuseal\x01"
TAG_BYTES: Final = 16
SALT_BYTES: Final = 32
CHUNK_BYTES: Final = 1 << 20
_LENGTH: Final = struct.Struct("<I")
_NONCE: Final = struct.Struct(">IQ")
_MAX_HEADER_BYTES: Final = 1 << 24
_MAX_CHUNK_BYTES: Final = 1 << 26


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """size_bytes: of the plaintext."""

    size_bytes: int
    weights: bool


class Public(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What anyone may know of the bmodel inside. memory: the fields of its
    `tpuserve.bmodel.MemoryBudget`.
    """

    sha256: str
    chip: str
    compiler: str
    memory: dict[str, int]


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """salt, key_check: hexadecimal, 32 and 16 bytes."""

    salt: str
    key_check: str
    chunk_bytes: int
    sections: tuple[Section, ...]
    public: Public

    def encoded(self) -> bytes:
        """All that stands before the chunks."""
        text = msgspec.json.encode(self)
        return MAGIC + _LENGTH.pack(len(text)) + text


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a section: [offset, offset + size_bytes) of it."""

    offset: int
    size_bytes: int
    nonce: bytes


def chunks(section: int, size_bytes: int, chunk_bytes: int) -> Iterator[Chunk]:
    for index, offset in enumerate(range(0, size_bytes, chunk_bytes)):
        length = min(chunk_bytes, size_bytes - offset)
        yield Chunk(offset, length, _NONCE.pack(section, index))


def sealed_bytes(size_bytes: int, chunk_bytes: int) -> int:
    """What a section of `size_bytes` takes in the encrypted file."""
    return size_bytes + -(-size_bytes // chunk_bytes) * TAG_BYTES


@dataclass(frozen=True, slots=True)
class Container:
    """An encrypted file, as far as it can be read without the key."""

    path: Path
    header: Header
    header_bytes: int
    digest: bytes

    @property
    def public(self) -> Public:
        """Authentic only after the file was decrypted with the right key."""
        return self.header.public

    @property
    def plain_bytes(self) -> int:
        return sum(section.size_bytes for section in self.header.sections)

    def unlock(self, key: Key) -> Opened:
        """Raises WrongKeyError."""
        header = self.header
        salt = bytes.fromhex(header.salt)
        if not key.matches(salt, bytes.fromhex(header.key_check)):
            raise WrongKeyError(f"{self.path} was encrypted with another key")
        return Opened(self, AESGCM(key.data_key(salt)))


class Opened:
    """An encrypted file with its key. Keeps no plaintext."""

    def __init__(self, container: Container, cipher: AESGCM) -> None:
        self.container = container
        self.sections = container.header.sections
        self._cipher = cipher
        self._starts = []
        position = container.header_bytes
        for section in self.sections:
            self._starts.append(position)
            position += sealed_bytes(section.size_bytes, container.header.chunk_bytes)

    def read(self, section: int, target: memoryview) -> None:
        """Decrypt a section into `target`, bytes, of its size. Raises TamperedError, OSError.

        What stands in `target` after an error is not to be used.
        """
        size_bytes = self.sections[section].size_bytes
        if target.nbytes != size_bytes:
            raise ValueError(f"section {section} has {size_bytes} bytes, not {target.nbytes}")
        position = self._starts[section]
        with self.container.path.open("rb", buffering=0) as file:
            for chunk in chunks(section, size_bytes, self.container.header.chunk_bytes):
                length = chunk.size_bytes + TAG_BYTES
                sealed = os.pread(file.fileno(), length, position)
                position += length
                try:
                    plain = self._cipher.decrypt(chunk.nonce, sealed, self.container.digest)
                except InvalidTag:
                    raise TamperedError(
                        f"{self.container.path} is not what was encrypted: the {length} bytes "
                        f"before byte {position} were changed, or the header was"
                    ) from None
                target[chunk.offset : chunk.offset + chunk.size_bytes] = plain


def open_container(path: Path) -> Container:
    """Read the header and check that the file has the size it tells.

    Raises EncryptionError when it is no encrypted file, TamperedError when it is no whole one.
    """
    try:
        with path.open("rb") as file:
            file_bytes = os.fstat(file.fileno()).st_size
            head = file.read(len(MAGIC) + _LENGTH.size)
            if head[: len(MAGIC)] != MAGIC:
                raise EncryptionError(f"{path} is not an encrypted bmodel")
            if len(head) < len(MAGIC) + _LENGTH.size:
                raise TamperedError(f"{path} is cut short: it has {file_bytes} bytes")
            (length,) = _LENGTH.unpack_from(head, len(MAGIC))
            if length > _MAX_HEADER_BYTES:
                raise TamperedError(
                    f"{path}: a header of {length} bytes, at most {_MAX_HEADER_BYTES} are known"
                )
            text = file.read(length)
    except OSError as error:
        raise EncryptionError(f"{path}: {error.strerror}") from error
    header = _header(path, text)
    container = Container(
        path=path,
        header=header,
        header_bytes=len(head) + length,
        digest=hashlib.sha256(head + text).digest(),
    )
    expected = container.header_bytes + sum(
        sealed_bytes(section.size_bytes, header.chunk_bytes) for section in header.sections
    )
    if file_bytes != expected:
        raise TamperedError(f"{path} has {file_bytes} bytes, its header promises {expected}")
    return container


def _header(path: Path, text: bytes) -> Header:
    try:
        header = msgspec.json.decode(text, type=Header)
        salt, check = bytes.fromhex(header.salt), bytes.fromhex(header.key_check)
    except ValueError as error:
        raise TamperedError(f"{path}: the header is damaged: {error}") from error
    sizes_fit = all(section.size_bytes > 0 for section in header.sections)
    if len(salt) != SALT_BYTES or not check or not header.sections or not sizes_fit:
        raise TamperedError(f"{path}: the header is damaged: a value is empty or too short")
    if not 0 < header.chunk_bytes <= _MAX_CHUNK_BYTES:
        raise TamperedError(
            f"{path}: the header is damaged: chunks of {header.chunk_bytes} bytes, "
            f"1 to {_MAX_CHUNK_BYTES} are known"
        )
    return header
