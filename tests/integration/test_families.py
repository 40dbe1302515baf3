"""Tiny checkpoints of other architectures, compiled and run on the chip's emulator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.__main__ import main
from device_svc import _core
from tests.support import float_models, tiny_checkpoints
from tests.support.compiler_environment import prepared
from tests.support.tiny_checkpoints import LAYERS, LIMIT, VOCAB, TinyCheckpoint
from tpuserve import model_dir, runtime_library
from tpuserve.bmodel import reader

# The environment is made on first use: 300 MB to download.
pytestmark = pytest.mark.timeout(900)

CHUNK, PROMPT, STEPS = 32, 50, 6
LAYER_NETS = ("block", "block_kv", "block_cache")
MODELS = [
    pytest.param(float_models.qwen1, tiny_checkpoints.qwen1(), id="qwen1"),
    pytest.param(float_models.chatglm3, tiny_checkpoints.chatglm3(50), id="chatglm3"),
    pytest.param(float_models.gpt_bigcode, tiny_checkpoints.gpt_bigcode(), id="gpt_bigcode"),
]


@pytest.fixture(scope="module", autouse=True)
def environment() -> None:
    prepared()


def compiled(tiny: TinyCheckpoint, directory: Path, line: str) -> Path:
    source = tiny.write(directory / "checkpoint")
    output = directory / "model"
    line = f"--seq {LIMIT} --chunk {CHUNK} --history --remove-kernel {line}"
    assert main([str(source), "-o", str(output), *line.split()]) == 0
    return model_dir.load(output).bmodel


def opened(bmodel: Path, slots: int) -> _core.Engine:
    found = runtime_library.find("emulator")
    library = _core.Library(str(found.directory), emulator=True)
    return _core.Engine(library, [str(bmodel)], slots=slots)


def logits_by_position(bmodel: Path, ids: Any) -> dict[int, Any]:
    """Logits after these positions of `ids` (the last step's is PROMPT + STEPS - 1).

    A first chunk, a second one behind its KV rows, a rewind into the first, and decode steps.
    """
    engine = opened(bmodel, slots=1)
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


def cosines(got: dict[int, Any], wanted: Any) -> dict[int, float]:
    return {
        at: float(row @ wanted[at] / np.linalg.norm(row) / np.linalg.norm(wanted[at]))
        for at, row in got.items()
    }


def check(got: dict[int, Any], wanted: Any) -> None:
    assert min(cosines(got, wanted).values()) >= 0.9999, cosines(got, wanted)
    assert {at: row.argmax() for at, row in got.items()} == {at: wanted[at].argmax() for at in got}


@pytest.mark.parametrize(("model", "tiny"), MODELS)
def test_a_compiled_model_computes_what_its_architecture_does(
    model: Callable[..., Any], tiny: TinyCheckpoint, tmp_path: Path
) -> None:
    bmodel = compiled(tiny, tmp_path, "--quantize f16")
    ids = np.random.default_rng(1).integers(0, VOCAB, PROMPT + STEPS).astype(np.int32)
    check(logits_by_position(bmodel, ids), model(tiny.config, tiny.weights, ids))


def test_four_bit_weights_cost_their_rounding_and_no_more(tmp_path: Path) -> None:
    # The family whose layers we build ourselves; the others go through the vendor's.
    tiny = tiny_checkpoints.gpt_bigcode()
    bmodel = compiled(tiny, tmp_path, "--quantize w4f16")
    ids = np.random.default_rng(1).integers(0, VOCAB, PROMPT + STEPS).astype(np.int32)
    got = logits_by_position(bmodel, ids)
    exact = float_models.gpt_bigcode(tiny.config, tiny.weights, ids)
    rounded = float_models.gpt_bigcode(tiny.config, float_models.four_bits(tiny.weights), ids)
    assert min(cosines(got, rounded).values()) >= 0.999
    assert min(cosines(got, exact).values()) < 0.999


@pytest.mark.parametrize(("model", "tiny"), MODELS[1:])
def test_two_slots_decode_together(
    model: Callable[..., Any], tiny: TinyCheckpoint, tmp_path: Path
) -> None:
    bmodel = compiled(tiny, tmp_path, "--quantize f16 --batch 2")
    # Prefill and decode share the weights of a layer, which otherwise would not fit the chip.
    for layer in range(LAYERS):
        nets = [reader.read(bmodel).net(f"{kind}_{layer}") for kind in LAYER_NETS]
        stored = {v.weights for net in nets if net for v in net.variants}
        assert all(nets)
        assert len(stored) == 1
    source = np.random.default_rng(2)
    texts = [source.integers(0, VOCAB, length + STEPS).astype(np.int32) for length in (30, 17)]
    engine = opened(bmodel, slots=2)
    try:
        for slot, text in enumerate(texts):
            engine.prefill(slot, text[:-STEPS], 0)
        steps = [
            engine.decode([0, 1], np.array([text[step] for text in texts]))
            for step in range(-STEPS, 0)
        ]
    finally:
        engine.close()
    for slot, text in enumerate(texts):
        wanted = model(tiny.config, tiny.weights, text)[-STEPS:]
        check({step: rows[slot] for step, rows in enumerate(steps)}, wanted)
