"""Faults of the vendor's converter that ours works around.

A test that fails here says that the vendor has mended something: the cure that it names can go.
What takes a compilation to show is in test_compile_batched.py.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.checkpoint import Checkpoint
from tests.support import float_models, llama_checkpoints
from tests.support.compiler_environment import prepared

# The environment is made on first use: 300 MB to download.
pytestmark = pytest.mark.timeout(900)

PROBE = Path(__file__).resolve().parents[1] / "support" / "vendor_probe.py"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    environment = prepared()
    directory = tmp_path_factory.mktemp("probe")
    source = llama_checkpoints.llama3().write(directory / "own")
    Checkpoint.open(source).stage(directory / "staged", "f16")
    done = subprocess.run(
        [environment.python, PROBE, directory / "staged", directory / "out"],
        env=environment.variables({}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_bf16_of_a_float16_checkpoint_is_not_refused(found: dict[str, Any]) -> None:
    # It compares by substring, "f16" is in "bf16", and the nets compute garbage. Cure:
    # Checkpoint.stage names the type that is asked for, whatever the checkpoint is stored in.
    assert found["bf16 of a float16 checkpoint"] is None


def test_auto_does_not_choose_for_a_float_checkpoint(found: dict[str, Any]) -> None:
    # Cure: there is no "auto" among our quantizations, the default is f16.
    assert "No quantization config found" in found["auto of a float checkpoint"]


def test_a_split_models_head_lacks_its_norm(found: dict[str, Any]) -> None:
    # The head of a model for several devices names the final norm and does not store it, so that it
    # does not compile; the last layer holds the norm already.
    assert found["head for two devices"] == ["model.norm.weight"]


def test_a_pipeline_wastes_two_devices(found: dict[str, Any]) -> None:
    # Embedding and head get a device each. Cure: we group the nets of a model ourselves.
    assert "must be at least 3" in found["pipeline over two devices"]


def test_the_chatglm_converter_has_neither_history_nor_rope_ratio(found: dict[str, Any]) -> None:
    # Cure: families/chatglm.py rewrites the checkpoint as qwen2.
    assert found["chatglm knows"] == []


def test_the_mllama_converter_has_a_constant_for_a_gate(found: dict[str, Any]) -> None:
    # Cure: families/mllama_vit.py builds the image net.
    assert found["mllama's constant gate"]


def test_an_unknown_rope_type_is_taken_for_the_default(found: dict[str, Any]) -> None:
    # Cure: families/llama.py refuses what the converter does not know.
    assert found["an unknown rope type is the default"]


def test_the_converters_llama3_frequencies_are_those_of_the_paper(found: dict[str, Any]) -> None:
    # No fault: what stands between a Llama 3 checkpoint and the float reference.
    config = llama_checkpoints.llama3().config
    angles = float_models.scaled_angles(config, 64, config["head_dim"])[40]
    np.testing.assert_allclose(found["cosines"], np.tile(np.cos(angles), 2), atol=2e-6)
