"""Builds the C++ programs of the benchmark."""

from __future__ import annotations

import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def build(program: str) -> Path:
    """csrc/bench/PROGRAM.cc, optimised as the extension is.

    Raises CalledProcessError with cmake's output.
    """
    directory = _ROOT / "build" / "bench"
    options = ("CMAKE_BUILD_TYPE=Release", "TPUSERVE_PYTHON=OFF", "TPUSERVE_BENCH=ON")
    configure = ["cmake", "-S", str(_ROOT), "-B", str(directory), "-G", "Ninja"]
    configure += [f"-D{option}" for option in options]
    compile_ = ["cmake", "--build", str(directory), "--target", program]
    for command in (configure, compile_):
        subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return directory / program
