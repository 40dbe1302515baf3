"""Reads what the compiler leaves of a static net: its cycle profile and its memory sizes."""

import re
from dataclasses import dataclass
from pathlib import Path

from compiler.errors import CompileError
from tpuserve.bmodel import reader

# One cycle of the profile's clock is one nanosecond.
_CYCLES_PER_MS = 1_000_000
_COPIES = ("S2L", "L2S", "S2S")


@dataclass(frozen=True, slots=True)
class NetCost:
    """On-chip time and memory of one shape variant; the launch itself is not in the time.

    ddr_bytes: what the copy engine moves to and from device memory in one launch.
    scratch_bytes: intermediate results. instruction_bytes: the commands of one launch.
    """

    ms: float
    ddr_bytes: int
    weight_bytes: int
    scratch_bytes: int
    instruction_bytes: int


def read_cost(directory: Path) -> NetCost:
    """Cost of the net that was compiled in `directory`, whose name is the net's.

    Raises CompileError when there is no profile.
    """
    ms, ddr_bytes = parse_profile(directory / "compiler_profile_0.txt")
    variant = reader.read(directory / f"{directory.name}.bmodel").nets[0].variants[0]
    return NetCost(
        ms=ms,
        ddr_bytes=ddr_bytes,
        weight_bytes=variant.weights.size_bytes if variant.weights else 0,
        scratch_bytes=variant.neuron_bytes,
        instruction_bytes=variant.instruction_bytes,
    )


def parse_profile(profile: Path) -> tuple[float, int]:
    """(milliseconds, bytes moved to and from device memory). Raises CompileError."""
    if not profile.is_file():
        raise CompileError(f"{profile} does not exist: only static nets leave a profile")
    text = profile.read_text(errors="replace")
    cycles = [int(value) for value in re.findall(r"^TCYC\s*:\s*(\d+)", text, re.MULTILINE)]
    if not cycles:
        raise CompileError(f"{profile} names no total of cycles")
    moved = (int(n) for copy in _COPIES for n in re.findall(rf"\b{copy}:(\d+)", text))
    return sum(cycles) / _CYCLES_PER_MS, sum(moved)
