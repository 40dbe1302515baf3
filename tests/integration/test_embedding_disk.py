"""A bmodel whose embedding is a file beside it, behind the services."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from device_svc import loading
from device_svc.engine_api import EngineStartError
from tests.golden.models import ARGMAX
from tests.integration.stack import start_stack
from tests.integration.test_prefix_reuse import ask, started
from tests.support.service_process import ROOT
from tpuserve import model_dir, runtime_library
from tpuserve.client import Client

DISK = ROOT / "tests" / "fixtures" / "models" / "disk"
# The same nets with the embedding among them.
STATIC = ROOT / "tests" / "fixtures" / "models" / "static"
PROMPT = [3 + (index * index * 7 + index) % 1000 for index in range(50)]


async def test_answers_are_those_of_the_embedding_nets(tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    with started(DISK, "off", tmp_path) as disk, started(STATIC, "off", tmp_path / "nets") as nets:
        found, expected = await ask(disk, PROMPT), await ask(nets, PROMPT)
        assert (found.ids, found.logprobs) == (expected.ids, expected.logprobs)
        assert disk.sha256 != nets.sha256


def test_the_three_services_serve_it() -> None:
    with start_stack(DISK) as running, Client(running.address) as client:
        (model,) = client.models()
        assert "embedding-disk" in model.features
        assert model.bmodel_sha256 == model_dir.load(DISK).sha256


def copy_of(source: Path, target: Path, rows: int) -> Path:
    """A model directory with an embedding of `rows` rows, whose hash nobody knows."""
    shutil.copytree(source, target)
    (target / "config").mkdir()
    (target / "tpuserve.toml").unlink()
    shutil.copy(ROOT / "models/demo/config/config.json", target / "config")
    table = np.zeros((rows, 128), np.float16)
    (target / "embedding.bin").write_bytes(table.tobytes())
    return target


def open_engine(directory: Path) -> None:
    library = runtime_library.find("emulator")
    plan = loading.plan_model(directory, loading.LoadOptions(library))
    plan.open_engine(memories=plan.memories).close()


@pytest.mark.parametrize("rows", [1023, 1025])
def test_a_table_of_another_size_is_refused(rows: int, tmp_path: Path) -> None:
    directory = copy_of(DISK, tmp_path / "model", rows)
    with pytest.raises(EngineStartError, match=r"expected 1024 rows of 256 bytes \(128 float16\)"):
        open_engine(directory)


def test_a_model_without_any_embedding_is_refused(tmp_path: Path) -> None:
    directory = copy_of(DISK, tmp_path / "model", 1)
    (directory / "embedding.bin").unlink()
    with pytest.raises(EngineStartError, match=r"no net embedding .* embedding.bin beside it"):
        open_engine(directory)


def test_a_bmodel_with_embedding_nets_does_not_need_the_file(tmp_path: Path) -> None:
    open_engine(copy_of(ARGMAX.parent, tmp_path / "model", 1))
