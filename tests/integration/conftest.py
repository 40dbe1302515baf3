from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.processes import Stack
from tests.integration.stack import start_stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Shared by all tests of the session: leave it as it was."""
    with start_stack() as running:
        yield running
