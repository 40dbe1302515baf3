from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.support.simchip import copy_library
from tests.support.simchip_abi import Simchip

NewChip: TypeAlias = Callable[..., Simchip]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a copy of the library for a profile, given as text."""
    count = 0

    def new(profile: str = "") -> Path:
        nonlocal count
        count += 1
        directory = tmp_path / f"library{count}"
        path = copy_library(directory)
        (directory / "profile.toml").write_text(profile, encoding="utf-8")
        monkeypatch.setenv("TPUSERVE_SIMCHIP_PROFILE", str(directory / "profile.toml"))
        return path

    return new


@pytest.fixture
def new_chip(library: Callable[[str], Path]) -> Iterator[NewChip]:
    """Simulated chips of a profile, with nothing open."""
    chips: list[Simchip] = []

    def new(profile: str = "") -> Simchip:
        chips.append(Simchip(library(profile)))
        return chips[-1]

    yield new
    for chip in chips:
        chip.close()
