"""A service in a process of its own, started as `python -m MODULE …` and watched by its log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class ServiceProcess:
    """`log` holds the lines of stderr; JSON ones are records with an `event`."""

    def __init__(self, process: subprocess.Popen[bytes], stderr: Path) -> None:
        self.process = process
        self._stderr = stderr

    @property
    def log(self) -> list[str]:
        return self._stderr.read_text(encoding="utf-8").splitlines()

    def record(self, event: str) -> dict[str, Any] | None:
        for line in self.log:
            if line.startswith("{"):
                record: dict[str, Any] = json.loads(line)
                if record.get("event") == event:
                    return record
        return None

    def wait_for(self, event: str, *, timeout_s: float = 25.0) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while (record := self.record(event)) is None:
            assert self.process.poll() is None, "\n".join(self.log)
            assert time.monotonic() < deadline, "\n".join(self.log)
            time.sleep(0.02)
        return record

    def exit_status(self, *, timeout_s: float = 20.0) -> int:
        return self.process.wait(timeout_s)


@contextmanager
def service_process(
    module: str, *arguments: str, stderr: Path, env: Mapping[str, str] | None = None
) -> Iterator[ServiceProcess]:
    """Its stderr goes to the file `stderr`. Killed at the end if it still runs."""
    with stderr.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=file,
        )
    try:
        yield ServiceProcess(process, stderr)
    finally:
        process.kill()
        process.wait()
