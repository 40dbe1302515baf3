"""Tokenizers of every kind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.tokenizer_svc.tiny_tokenizers import MAKERS
from tokenizer_svc.loading import LoadedTokenizer, load


@pytest.fixture(scope="session")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A config directory of every kind."""
    made: dict[str, Path] = {}
    for name, make in MAKERS.items():
        made[name] = tmp_path_factory.mktemp(name)
        make(made[name])
    return made


@pytest.fixture(scope="session")
def loaded(configs: dict[str, Path]) -> dict[str, LoadedTokenizer]:
    """Every kind, loaded."""
    return {name: load(path, max_characters=100_000) for name, path in configs.items()}


@pytest.fixture
def real_config(request: pytest.FixtureRequest) -> Path:
    """A published tokenizer's files, named by the test's parameter; skips when they are absent."""
    default = Path(__file__).resolve().parents[4] / "shared" / "data"
    root = Path(os.environ.get("TPUSERVE_TEST_DATA", default)) / "tokenizers"
    path = root / str(request.param)
    if not path.is_dir():
        pytest.skip(f"no published tokenizer {request.param}: set TPUSERVE_TEST_DATA")
    return path
