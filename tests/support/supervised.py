"""`tpuserve up` as a child process of a test, on free ports."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "demo"
CHIPS2 = ROOT / "tests" / "fixtures" / "models" / "chips2"  # the same nets on two chips
SCRIPT = "from tpuserve.cli.__main__ import main; raise SystemExit(main())"
ANY_PORTS = ["--grpc-port", "0", "--http-port", "0"]


class Up:
    """A running `tpuserve up`; `wait_for` reads its stderr as far as needed."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_for(self, pattern: str) -> re.Match[str]:
        deadline_s = time.monotonic() + 25
        while (found := re.search(pattern, self.log)) is None:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline_s, self.log
            time.sleep(0.02)
        return found

    def child(self, module: str) -> psutil.Process:
        for child in self.children(module):
            return child
        raise AssertionError(f"no {module} in {self.log}")

    def children(self, module: str) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if module in child.cmdline()]


@contextlib.contextmanager
def up(tmp_path: Path, *arguments: str) -> Iterator[Up]:
    command = [sys.executable, "-u", "-c", SCRIPT, "up", *ANY_PORTS, "--runtime", "emulator"]
    log = tmp_path / "up.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, *arguments], stdout=file, stderr=file, text=True, cwd=ROOT
        )
    try:
        yield Up(process, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
