"""The key: 32 random bytes, in a file as 64 hexadecimal digits.

Each encrypted file has a data key of its own, derived from the key and the file's salt with HKDF
(RFC 5869, SHA-256), so that one key may encrypt any number of files.
"""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tpuserve.encryption.errors import KeyFileError

ENVIRONMENT: Final = "TPUSERVE_KEY_FILE"
_KEY_BYTES: Final = 32
_CHECK_BYTES: Final = 16
# A key with line end; more than that is no key file.
_MAX_FILE_BYTES: Final = 1024


class Key:
    """Derives what is needed; neither shows itself when printed."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) != _KEY_BYTES:
            raise KeyFileError(f"a key has {_KEY_BYTES} bytes, not {len(secret)}")
        self._secret = secret

    def data_key(self, salt: bytes) -> bytes:
        return self._derive(salt, b"tpuserve bmodel data", _KEY_BYTES)

    def check_value(self, salt: bytes) -> bytes:
        """Tells keys apart without revealing anything of them; 16 bytes."""
        return self._derive(salt, b"tpuserve key check", _CHECK_BYTES)

    def matches(self, salt: bytes, check_value: bytes) -> bool:
        return hmac.compare_digest(self.check_value(salt), check_value)

    def _derive(self, salt: bytes, purpose: bytes, length: int) -> bytes:
        return HKDF(algorithm=SHA256(), length=length, salt=salt, info=purpose).derive(self._secret)


def read_key(path: Path | str) -> Key:
    """Raises KeyFileError."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"key file {path}: {error.strerror}") from error
    digits = text.strip()
    try:
        if len(digits) != 2 * _KEY_BYTES:
            raise ValueError
        return Key(bytes.fromhex(digits.decode("ascii")))
    except ValueError:
        # Without the cause: its text would quote the file.
        raise KeyFileError(
            f"key file {path} holds no key: {2 * _KEY_BYTES} hexadecimal digits are expected, "
            "as `tpuserve encrypt --new-key FILE` writes them"
        ) from None


def write_new_key(path: Path) -> None:
    """A new random key, readable by its owner only. Never overwrites. Raises KeyFileError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_KEY_BYTES) + "\n")
    except FileExistsError as error:
        raise KeyFileError(
            f"{path} exists; a key is never overwritten, since what it encrypted would be lost"
        ) from error
    except OSError as error:
        raise KeyFileError(f"key file {path}: {error.strerror}") from error
