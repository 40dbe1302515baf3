"""One process at a time loads a model on a chip of this host.

Several device services may share a chip. Each checks what is free before it loads; two that check
at once would both find room for one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path


@contextlib.contextmanager
def loading(chips: Sequence[int], directory: Path | None = None) -> Iterator[None]:
    """Waits until no other process loads on any of the chips. Files of locks stay in `directory`,
    by default that of temporary files. Raises OSError.
    """
    root = directory or Path(tempfile.gettempdir())
    with contextlib.ExitStack() as stack:
        # In one order, so that no two wait for each other.
        for chip in sorted(chips):
            descriptor = _opened(root / f"tpuserve-chip-{chip}.lock")
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _opened(path: Path) -> int:
    """To read, which a lock does not mind: the file may be another user's, whom the kernel does not
    let us open it for with O_CREAT."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
