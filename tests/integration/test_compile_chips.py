"""Compiles a tiny model for four chips and runs it on as many emulated ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compiler.__main__ import main
from compiler.environment import Environment
from device_svc import _core
from tests.support.compiler_environment import prepared
from tests.support.random_llama import write_llama
from tpuserve import bmodel, model_dir, runtime_library

# The environment is made on first use: 300 MB to download.
pytestmark = pytest.mark.timeout(900)

CHIPS = 4
SEQ = 64
VOCAB = 128


@pytest.fixture(scope="module")
def environment() -> Environment:
    return prepared()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("checkpoint"), layers=CHIPS, vocab=VOCAB)


def open_engine(parts: list[Path], *, slots: int) -> _core.Engine:
    found = runtime_library.find("emulator")
    library = _core.Library(str(found.directory), emulator=found.emulator)
    chips = list(range(len(parts)))
    return _core.Engine(library, [str(path) for path in parts], chips=chips, slots=slots)


def answers(engine: _core.Engine) -> list[np.ndarray]:
    """Logits of prefills with and without history, and of decode steps in changing company."""
    rows = []
    for slot in range(2):
        ids = np.arange(slot, 16 + slot, dtype=np.int32)
        engine.prefill(slot, ids, 0, last=False)
        rows.append(engine.prefill(slot, ids[:7] + 5, 16))
    for slots in ([0, 1], [1], [1, 0], [0]):
        rows.append(engine.decode(slots, np.array(slots, np.int32) + 3))
    engine.close()
    found = [np.asarray(row) for row in rows]
    assert all(np.isfinite(row).all() for row in found)
    return found


def test_four_chips_compute_what_one_does(
    checkpoint: Path, environment: Environment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "four"
    line = f"--seq {SEQ} --history --chunk 16 --batch 2 --quantize w4f16 --remove-kernel"
    given = [str(checkpoint), "-o", str(output), *line.split(), "--num-device", str(CHIPS)]
    assert main(given) == 0
    loaded = model_dir.load(output)
    assert [path.name for path in loaded.bmodels] == [
        f"four_w4f16.chip{chip}.bmodel" for chip in range(CHIPS)
    ]
    assert loaded.slots == 2 * CHIPS  # a batch for each chip
    assert model_dir.bmodel_sha256(loaded) == loaded.sha256
    assert "four_w4f16.chip3.bmodel" in capsys.readouterr().out
    names = [{net.name for net in bmodel.read(part).nets} for part in loaded.bmodels]
    assert [f"block_cache_{layer}" in names[layer] for layer in range(CHIPS)] == [True] * CHIPS
    assert ("embedding" in names[0], "lm_head" in names[-1]) == (True, True)
    whole = tmp_path / "whole.bmodel"
    combine = ["model_tool", "--combine", *map(str, loaded.bmodels), "-o", str(whole)]
    environment.run(combine, tmp_path / "whole.log", tmp_path)
    one = answers(open_engine([whole], slots=2))
    # On one chip both slots are rows of one batch, on four each is in a batch of its own.
    for slots in (2, 8):
        four = answers(open_engine(list(loaded.bmodels), slots=slots))
        for expected, row in zip(one, four, strict=True):
            assert np.array_equal(row, expected)


@pytest.mark.usefixtures("environment")
def test_more_chips_than_layers_are_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"--seq {SEQ} --num-device 9"
    assert main([str(checkpoint), "-o", str(tmp_path / "out"), *line.split()]) == 1
    assert "num-device is 9, must be 1 to 8" in capsys.readouterr().err
