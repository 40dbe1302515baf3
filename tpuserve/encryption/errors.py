"""What goes wrong with encrypted bmodels. No text holds anything of a key or of the plaintext."""

from __future__ import annotations


class EncryptionError(ValueError):
    """The text names the file and what to do about it."""


class KeyFileError(EncryptionError):
    """The key file cannot be read or holds no key."""


class WrongKeyError(EncryptionError):
    """The file was encrypted with another key."""


class TamperedError(EncryptionError):
    """The file is not what was written: changed, cut short or damaged."""
