"""Simulated chips for tests: copies of the library, profiles, and the rule of its tokens.

The token after a sequence is the sum of (id + 1) × (position + 1) + 1 over all of it, modulo the
vocabulary. After 1, 2, 3 (vocabulary 1024): 2·1 + 1 + 3·2 + 1 + 4·3 + 1 = 23, then
23 + 24·4 + 1 = 120, then 120 + 121·5 + 1 = 726.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.support.simchip_bmodel import Shape, bmodel_bytes
from tpuserve import runtime_library

PROFILES: Final = Path(__file__).resolve().parents[2] / "csrc" / "simchip" / "profiles"
TINY: Final = PROFILES / "tiny.toml"
VOCAB_SIZE: Final = 64

ONE_ROW: Final = Shape(
    layers=3,
    hidden_size=8,
    kv_heads=1,
    head_dim=4,
    vocab_size=VOCAB_SIZE,
    prefill_chunk=4,
    decode=((1, 32), (1, 16)),
)
BATCHED: Final = Shape(
    layers=3,
    hidden_size=8,
    kv_heads=1,
    head_dim=4,
    vocab_size=VOCAB_SIZE,
    prefill_chunk=4,
    slots=4,
    decode=((4, 32), (4, 16), (1, 32), (1, 16)),
)


def next_token(ids: Sequence[int], vocab_size: int = VOCAB_SIZE) -> int:
    return sum((token + 1) * (place + 1) + 1 for place, token in enumerate(ids)) % vocab_size


def completion(ids: Sequence[int], count: int, vocab_size: int = VOCAB_SIZE) -> list[int]:
    """The `count` tokens that follow greedily."""
    sequence = list(ids)
    for _ in range(count):
        sequence.append(next_token(sequence, vocab_size))
    return sequence[len(ids) :]


def library_directory() -> Path:
    """Where the built library is."""
    return runtime_library.find(f"simchip:{TINY}").directory


def copy_library(target: Path) -> Path:
    """A copy is another library to the loader: its chips and counters are its own."""
    target.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(library_directory() / "libsimchip.so", target))


def write_bmodel(path: Path, shape: Shape) -> Path:
    path.write_bytes(bmodel_bytes(shape))
    return path
