"""`tpuserve compile`, as the rows use it."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Final

from compiler.__main__ import main
from tpuserve import model_dir
from tpuserve.model_dir import ModelDir

_INTERRUPTED: Final = 130


class BuildError(RuntimeError):
    """The compiler refused or failed; the text is what it printed."""


def compile_checkpoint(source: Path, output: Path, arguments: str) -> ModelDir:
    """The kernel module is left out: the emulator brings its own. Raises BuildError."""
    printed = io.StringIO()
    line = [str(source), "-o", str(output), "--remove-kernel", *arguments.split()]
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = main(line)
    if status == _INTERRUPTED:
        raise KeyboardInterrupt
    if status != 0:
        raise BuildError(printed.getvalue())
    return model_dir.load(output)
