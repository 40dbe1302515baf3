"""Compiles a layer that two chips share, and runs it on the emulator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compiler.__main__ import main
from compiler.checkpoint import Checkpoint
from compiler.convert import Options, convert
from compiler.environment import Environment
from compiler.errors import CompileError
from device_svc import _core
from tests.golden.models import cosine
from tests.support.compiler_environment import prepared
from tests.support.random_llama import write_llama
from tpuserve import model_dir, runtime_library

# The environment is made on first use: 300 MB to download.
pytestmark = pytest.mark.timeout(900)

# The compiler splits no weight of 4,194,304 elements or less.
HIDDEN, INNER, HEADS, KV_HEADS, VOCAB = 2304, 6144, 36, 4, 256
SEQ, PROMPT = 32, 8


@pytest.fixture(scope="module")
def environment() -> Environment:
    return prepared()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(
        tmp_path_factory.mktemp("checkpoint"),
        hidden=HIDDEN,
        inner=INNER,
        heads=HEADS,
        kv_heads=KV_HEADS,
        vocab=VOCAB,
    )


def answers(bmodel: Path, chips: list[int]) -> list[np.ndarray]:
    """Logits of prefills and decode steps of two slots, of a restored and of a copied slot."""
    found = runtime_library.find("emulator")
    library = _core.Library(str(found.directory), emulator=found.emulator)
    engine = _core.Engine(library, [str(bmodel)], chips=chips, slots=2)
    assert (engine.spec.kv_heads, engine.spec.dynamic_prefill) == (KV_HEADS, True)
    rows = []
    for slot in range(2):
        ids = (np.arange(PROMPT - slot, dtype=np.int32) * 7 + slot) % VOCAB
        rows.append(engine.prefill(slot, ids, 0))
    rows += list(engine.decode([1, 0], np.array([3, 4], np.int32)))
    saved = engine.save(0)
    engine.restore(1, saved, PROMPT)
    rows += list(engine.decode([1], np.array([5], np.int32)))
    engine.copy_prefix(0, 1, 6)
    rows += list(engine.decode([1], np.array([6], np.int32)))
    engine.close()
    return [np.asarray(row) for row in rows]


def test_two_chips_share_each_layer(
    checkpoint: Path, environment: Environment, tmp_path: Path
) -> None:
    line = f"--seq {SEQ} --max-input {PROMPT} --dynamic --quantize f16 --remove-kernel"
    output = tmp_path / "pair"
    assert main([str(checkpoint), "-o", str(output), *line.split(), "--tensor-parallel", "2"]) == 0
    loaded = model_dir.load(output)
    assert (loaded.chips, loaded.chips_per_layer, len(loaded.bmodels)) == (2, 2, 1)
    options = Options(SEQ, dynamic=True, max_input_tokens=PROMPT, keep_kernel=False)
    (tmp_path / "one").mkdir()
    (one,) = convert(Checkpoint.open(checkpoint), options, environment, tmp_path / "one")
    for expected, row in zip(answers(one, [0]), answers(loaded.bmodel, [2, 3]), strict=True):
        assert cosine(row, expected) >= 0.99999
    with pytest.raises(ValueError, match="1 chip given: a model of 1 part runs on exactly 2 chips"):
        answers(loaded.bmodel, [0])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (Options(64, "w8f16", sharing=2), "tensor-parallel goes with f16 and w4f16, not with w8"),
        (Options(64, sharing=3), "tensor-parallel is 3, must be 1, 2 or 4"),
        (Options(64, history=True, chunk_tokens=16, sharing=2), "goes with seq, max-input"),
        (Options(64, batch=4, sharing=2), "goes with seq, max-input"),
    ],
)
def test_what_cannot_be_shared_is_refused(options: Options, says: str) -> None:
    with pytest.raises(CompileError, match=says):
        options.check()


def test_layers_that_would_not_be_split_are_refused(
    environment: Environment, tmp_path: Path
) -> None:
    small = Checkpoint.open(write_llama(tmp_path))
    with pytest.raises(CompileError, match=r"q_proj has 4096 elements: .* more than 4194304"):
        convert(small, Options(64, sharing=2), environment, tmp_path)
    config = {**small.config, "num_key_value_heads": 1}
    with pytest.raises(CompileError, match="1 key and value heads do not divide by 2 chips"):
        convert(replace(small, config=config), Options(64, sharing=2), environment, tmp_path)
