from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.processes import Stack
from tests.integration.stack import start_stack
from tests.support.manifests import K8S, OVERLAYS, Rendered, render


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Shared by all tests of the session: leave it as it was."""
    with start_stack() as running:
        yield running


@pytest.fixture(scope="session", params=OVERLAYS)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    return Rendered(request.param, render(K8S / "overlays" / request.param))
