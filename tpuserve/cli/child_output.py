"""Where the output of the services goes: files, or stderr."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import TracebackType
from typing import IO


class ChildOutput:
    """Takes lines of children by name.

    With a directory every line goes to `NAME.log` there. Without, the services' own log lines
    (JSON) go to stderr; the vendor runtime's chatter goes there too when `verbose`.
    """

    def __init__(self, directory: Path | None, *, verbose: bool) -> None:
        self._directory = directory
        self._verbose = verbose
        self._files: dict[str, IO[str]] = {}
        self._stack = contextlib.ExitStack()
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> ChildOutput:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def __call__(self, name: str, line: str) -> None:
        # A full disk or a closed terminal is no reason to stop serving.
        with contextlib.suppress(OSError):
            if self._directory is not None:
                print(line, file=self._file(self._directory, name), flush=True)
            elif self._verbose or line.startswith("{"):
                print(line, file=sys.stderr, flush=True)

    def _file(self, directory: Path, name: str) -> IO[str]:
        if name not in self._files:
            path = directory / f"{name}.log"
            self._files[name] = self._stack.enter_context(path.open("a", encoding="utf-8"))
        return self._files[name]
