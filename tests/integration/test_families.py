"""Tiny checkpoints of other architectures, compiled and run on the chip's emulator."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.__main__ import main
from compiler.environment import default_environment, find_python310
from compiler.errors import CompileError
from device_svc import _core
from tests.support import float_models, tiny_checkpoints
from tests.support.tiny_checkpoints import LIMIT, VOCAB, TinyCheckpoint
from tpuserve import model_dir, runtime_library

# The environment is made on first use: 300 MB to download.
pytestmark = pytest.mark.timeout(900)

CHUNK, PROMPT, STEPS = 32, 50, 6


@pytest.fixture(scope="module", autouse=True)
def environment() -> None:
    try:
        find_python310()
    except CompileError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    default_environment().prepare()


def compiled(tiny: TinyCheckpoint, directory: Path, line: str) -> Path:
    source = tiny.write(directory / "checkpoint")
    output = directory / "model"
    line = f"--seq {LIMIT} --chunk {CHUNK} --history --remove-kernel {line}"
    assert main([str(source), "-o", str(output), *line.split()]) == 0
    return model_dir.load(output).bmodel


def logits_by_position(bmodel: Path, ids: Any) -> dict[int, Any]:
    """Logits after these positions of `ids` (the last step's is PROMPT + STEPS - 1).

    A first chunk, a second one behind its KV rows, a rewind into the first, and decode steps.
    """
    found = runtime_library.find("emulator")
    engine = _core.Engine(_core.Library(str(found.directory), emulator=True), str(bmodel))
    try:
        got = {CHUNK - 1: engine.prefill(0, ids[:CHUNK], 0)}
        engine.prefill(0, ids[CHUNK:PROMPT][::-1].copy(), CHUNK)
        got[PROMPT - 5] = engine.prefill(0, ids[CHUNK - 4 : PROMPT - 4], CHUNK - 4)
        got[PROMPT - 1] = engine.prefill(0, ids[PROMPT - 4 : PROMPT], PROMPT - 4)
        for position in range(PROMPT, PROMPT + STEPS):
            got[position] = engine.decode([0], ids[position : position + 1])[0]
        return got
    finally:
        engine.close()


def check(got: dict[int, Any], wanted: Any, least_cosine: float) -> None:
    cosines = {
        at: float(row @ wanted[at] / np.linalg.norm(row) / np.linalg.norm(wanted[at]))
        for at, row in got.items()
    }
    assert min(cosines.values()) >= least_cosine, cosines
    assert {at: row.argmax() for at, row in got.items()} == {at: wanted[at].argmax() for at in got}


@pytest.mark.parametrize(
    ("model", "tiny"),
    [
        pytest.param(float_models.qwen1, tiny_checkpoints.qwen1(), id="qwen1"),
        pytest.param(float_models.chatglm3, tiny_checkpoints.chatglm3(50), id="chatglm3"),
        pytest.param(float_models.gpt_bigcode, tiny_checkpoints.gpt_bigcode(), id="gpt_bigcode"),
    ],
)
@pytest.mark.parametrize("quantize", ["f16", "w4f16"])
def test_a_compiled_model_computes_what_its_architecture_does(
    model: Callable[..., Any], tiny: TinyCheckpoint, quantize: str, tmp_path: Path
) -> None:
    bmodel = compiled(tiny, tmp_path, f"--quantize {quantize}")
    ids = np.random.default_rng(1).integers(0, VOCAB, PROMPT + STEPS).astype(np.int32)
    weights = tiny.weights if quantize == "f16" else float_models.four_bits(tiny.weights)
    wanted = model(tiny.config, weights, ids)
    check(logits_by_position(bmodel, ids), wanted, 0.9999 if quantize == "f16" else 0.999)
