"""Opens a bmodel that may be encrypted with the key that the operator named."""

from __future__ import annotations

import os
from pathlib import Path

from tpuserve.encryption.container import MAGIC, Opened, open_container
from tpuserve.encryption.errors import EncryptionError, KeyFileError
from tpuserve.encryption.key import ENVIRONMENT, read_key


def is_encrypted(path: Path) -> bool:
    """Raises EncryptionError when the file cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise EncryptionError(f"{path}: {error.strerror}") from error


def unlock(path: Path, key_file: Path | None) -> Opened | None:
    """None for a plain file. Without `key_file` the environment may name one.

    Raises EncryptionError: no key, one that cannot be read, a wrong one, or a damaged file.
    """
    if not is_encrypted(path):
        return None
    container = open_container(path)
    named = key_file or _named_by_environment()
    if named is None:
        raise KeyFileError(
            f"{path} is encrypted: name its key with --key-file FILE or {ENVIRONMENT}=FILE"
        )
    return container.unlock(read_key(named))


def _named_by_environment() -> Path | None:
    named = os.environ.get(ENVIRONMENT)
    return Path(named) if named else None
