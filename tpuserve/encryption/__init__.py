"""Encrypted bmodels: AES-256-GCM around the whole file, and what the runtime needs to load one.

Format and keys: `tpuserve.encryption.container` and `tpuserve.encryption.key`.
"""

from tpuserve.encryption.container import Container, Opened, Public, open_container
from tpuserve.encryption.directory import Encrypted, encrypt_directory
from tpuserve.encryption.errors import EncryptionError, KeyFileError, TamperedError, WrongKeyError
from tpuserve.encryption.in_memory import RuntimeFile, read_bmodel, runtime_file
from tpuserve.encryption.key import Key, read_key, write_new_key
from tpuserve.encryption.unlocking import is_encrypted, unlock
from tpuserve.encryption.writer import encrypt_file

__all__ = [
    "Container",
    "Encrypted",
    "EncryptionError",
    "Key",
    "KeyFileError",
    "Opened",
    "Public",
    "RuntimeFile",
    "TamperedError",
    "WrongKeyError",
    "encrypt_directory",
    "encrypt_file",
    "is_encrypted",
    "open_container",
    "read_bmodel",
    "read_key",
    "runtime_file",
    "unlock",
    "write_new_key",
]
