"""A dump as a file: a .npz with one array per tensor, and `meta`, a JSON text."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tpuserve.dumps.fetch import Dump

_META: Final = "meta"


class DumpFileError(ValueError):
    """The text names the file."""


def save(path: Path, dump: Dump) -> None:
    """Raises OSError. `meta` has model, bmodel_sha256, prompt_tokens and dtypes."""
    meta = {
        "model": dump.model,
        "bmodel_sha256": dump.bmodel_sha256,
        "prompt_tokens": dump.prompt_tokens,
        "dtypes": dump.dtypes,
    }
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **{_META: np.array(json.dumps(meta))}, **dump.tensors)


def load(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz in the file's order, without `meta`. Raises DumpFileError."""
    try:
        # Opened here: numpy leaves a file open that it finds to be none of its own.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DumpFileError(f"{path} is a single array, not an archive (.npz)")
            return {name: archive[name] for name in archive.files if name != _META}
    except OSError as error:
        raise DumpFileError(f"{path}: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DumpFileError(f"{path} is no .npz archive of numbers: {error}") from error
