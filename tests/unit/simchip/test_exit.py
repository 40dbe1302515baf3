"""What a process that used a simulated chip leaves behind, told at its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.simchip import TINY, copy_library

ROOT = Path(__file__).resolve().parents[3]
OPEN = "chip = Simchip(Path(sys.argv[1])); handle = chip.open()\n"


def run(
    library: Path, script: str, *, profile: Path = TINY, status: str | None = "86"
) -> tuple[int, list[str]]:
    """Exit status and what the library said."""
    environ = {**os.environ, "TPUSERVE_SIMCHIP_PROFILE": str(profile)}
    if status is not None:
        environ["TPUSERVE_SIMCHIP_EXIT_STATUS"] = status
    start = "import sys\nfrom pathlib import Path\nfrom tests.support.simchip_abi import Simchip\n"
    result = subprocess.run(
        [sys.executable, "-c", start + script, str(library)],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in result.stderr.splitlines() if line.startswith("simchip:")]
    assert len(said) == len(result.stderr.splitlines()), result.stderr
    return result.returncode, said


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return copy_library(tmp_path)


def test_a_tidy_process_says_nothing(library: Path) -> None:
    script = OPEN + "memory = handle.allocate(100); handle.free_memory(memory); handle.free()"
    assert run(library, script) == (0, [])


def test_leaks_are_told_and_end_in_the_status_that_was_asked_for(library: Path) -> None:
    script = OPEN + "handle.allocate(100); handle.allocate(100); handle.runtime()"
    leaks = [
        "simchip: leak: 2 allocations are not freed at exit",
        "simchip: leak: 1 runtimes are not destroyed at exit",
        "simchip: leak: 1 handles are open at exit",
    ]
    assert run(library, script) == (86, leaks)
    assert run(library, script, status="3") == (3, leaks)
    assert run(library, script, status=None) == (0, leaks)


def test_a_broken_rule_ends_in_the_status_too(library: Path) -> None:
    script = OPEN + "handle.malloc(0); handle.free()"
    status, said = run(library, script)
    assert status == 86
    assert said == ["simchip: empty-allocation: bm_malloc_device_byte: 0 bytes are asked for"]


def test_broken_rules_are_counted_on_when_they_are_no_longer_told(library: Path) -> None:
    script = OPEN + "[handle.malloc(0) for _ in range(500)]; handle.free()\n"
    script += "assert chip.broken_rules == 500"
    status, said = run(library, script)
    assert (status, len(said)) == (86, 100)
