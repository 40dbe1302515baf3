"""Encrypts a bmodel file."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tpuserve import bmodel
from tpuserve.encryption.container import (
    CHUNK_BYTES,
    SALT_BYTES,
    Header,
    Public,
    Section,
    chunks,
)
from tpuserve.encryption.description import MIN_WEIGHTS_BYTES, weight_ranges
from tpuserve.encryption.errors import EncryptionError
from tpuserve.encryption.key import Key

_BLOCK_BYTES: Final = 1 << 20


def encrypt_file(source: Path, target: Path, key: Key) -> Public:
    """Write `target`, which must not exist, from the bmodel `source`, which is only read.

    Raises EncryptionError, BmodelFileError, OSError; nothing is left at `target` then.
    """
    content = bmodel.read(source)
    with source.open("rb") as plain:
        sha256 = _digest(plain)
        memory = bmodel.memory_budget(content)
        public = Public(
            sha256=sha256, chip=content.chip, compiler=content.version, memory=asdict(memory)
        )
        salt = secrets.token_bytes(SALT_BYTES)
        header = Header(
            salt=salt.hex(),
            key_check=key.check_value(salt).hex(),
            chunk_bytes=CHUNK_BYTES,
            sections=tuple(_sections(plain, content.file_bytes)),
            public=public,
        )
        # Beside the target until it is whole.
        unfinished = target.with_name(f".{target.name}.part")
        try:
            with unfinished.open("xb") as sealed:
                _write(plain, sealed, header, AESGCM(key.data_key(salt)))
                sealed.flush()
                os.fsync(sealed.fileno())
            os.link(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)
    return public


def _sections(plain: BinaryIO, file_bytes: int) -> Iterator[Section]:
    """Weights, and what stands before, between and after them."""
    position = 0
    for start, size in weight_ranges(plain):
        if size < MIN_WEIGHTS_BYTES:
            continue
        if start > position:
            yield Section(start - position, weights=False)
        yield Section(size, weights=True)
        position = start + size
    if position < file_bytes:
        yield Section(file_bytes - position, weights=False)


def _write(plain: BinaryIO, sealed: BinaryIO, header: Header, cipher: AESGCM) -> None:
    beginning = header.encoded()
    associated = hashlib.sha256(beginning).digest()
    sealed.write(beginning)
    plain.seek(0)
    digest = hashlib.sha256()
    for index, section in enumerate(header.sections):
        for chunk in chunks(index, section.size_bytes, header.chunk_bytes):
            data = plain.read(chunk.size_bytes)
            digest.update(data)
            sealed.write(cipher.encrypt(chunk.nonce, data, associated))
    if digest.hexdigest() != header.public.sha256:
        raise EncryptionError(f"{plain.name} changed while it was read")


def _digest(plain: BinaryIO) -> str:
    digest = hashlib.sha256()
    plain.seek(0)
    while block := plain.read(_BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()
