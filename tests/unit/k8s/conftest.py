from __future__ import annotations

import pytest

from tests.support.manifests import K8S, OVERLAYS, Rendered, render


@pytest.fixture(scope="session", params=OVERLAYS)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    return Rendered(request.param, render(K8S / "overlays" / request.param))
