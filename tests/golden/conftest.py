from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device_svc import _core
from tests.golden import models
from tests.golden.reference import Reference
from tpuserve import runtime_library

OpenEngine = Callable[..., _core.Engine]


@pytest.fixture(scope="session")
def library() -> _core.Library:
    found = runtime_library.find("emulator")
    return _core.Library(str(found.directory), emulator=found.emulator)


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference.load(models.CONFIG, models.WEIGHTS)


@pytest.fixture
def open_engine(library: _core.Library) -> Iterator[OpenEngine]:
    """Opens engines on the emulator and closes them after the test."""
    opened: list[_core.Engine] = []

    def open_one(bmodel: Path, slots: int = 1, *, deterministic: bool = False) -> _core.Engine:
        opened.append(
            _core.Engine(library, [str(bmodel)], slots=slots, deterministic=deterministic)
        )
        return opened[-1]

    yield open_one
    for engine in opened:
        engine.close()
