"""Checkpoints in the converter's form compute what they computed in their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from compiler.__main__ import main
from compiler.checkpoint import Checkpoint
from compiler.errors import CompileError
from compiler.families.tensor_file import Rows, rewrite
from compiler.model_directory import Layout, write_model_directory
from tests.support import float_models, tiny_checkpoints
from tests.support.tiny_checkpoints import LIMIT, VOCAB, TinyCheckpoint

MODELS = [
    pytest.param(float_models.qwen1, tiny_checkpoints.qwen1(), id="qwen1"),
    pytest.param(float_models.chatglm3, tiny_checkpoints.chatglm3(), id="chatglm3"),
    pytest.param(float_models.chatglm3, tiny_checkpoints.chatglm3(50), id="chatglm3-32k"),
]


def staged(tiny: TinyCheckpoint, directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Config and weights as the converter gets them."""
    Checkpoint.open(tiny.write(directory / "own")).stage(directory / "staged", "f16")
    weights: dict[str, Any] = {}
    for path in (directory / "staged").glob("*.safetensors"):
        weights |= {name: w.astype(np.float64) for name, w in load_file(path).items()}
    return json.loads((directory / "staged" / "config.json").read_text()), weights


@pytest.mark.parametrize(("model", "tiny"), MODELS)
def test_the_rewritten_model_is_the_same_function(
    model: Callable[..., Any], tiny: TinyCheckpoint, tmp_path: Path
) -> None:
    config, weights = staged(tiny, tmp_path)
    ids = np.random.default_rng(0).integers(0, VOCAB, LIMIT).astype(np.int32)
    wanted = model(tiny.config, tiny.weights, ids)
    got = float_models.qwen2(config, weights, ids)
    assert np.abs(got - wanted).max() < 1e-9 * np.abs(wanted).max()
    assert config["torch_dtype"] == "float16"


@pytest.mark.parametrize(
    ("tiny", "key", "architecture"),
    [
        (tiny_checkpoints.qwen1(), "seq_length", "QWenLMHeadModel"),
        (tiny_checkpoints.chatglm3(), "seq_length", "ChatGLMModel"),
        (tiny_checkpoints.gpt_bigcode(), "n_positions", "GPTBigCodeForCausalLM"),
    ],
)
def test_lengths_beyond_the_models_own_are_refused(
    tiny: TinyCheckpoint,
    key: str,
    architecture: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = tiny.write(tmp_path / "own")
    assert main([str(source), "-o", str(tmp_path / "out"), "--seq", str(LIMIT + 1)]) == 1
    assert capsys.readouterr().err == (
        f"error: seq is {LIMIT + 1}, must be at most {LIMIT}: the {key} of this {architecture}\n"
    )


@pytest.mark.parametrize(
    ("tiny", "key", "value"),
    [
        (tiny_checkpoints.qwen1(), "no_bias", False),
        (tiny_checkpoints.qwen1(), "rotary_pct", 0.5),
        (tiny_checkpoints.chatglm3(), "multi_query_attention", False),
        (tiny_checkpoints.chatglm3(), "rmsnorm", False),
        (tiny_checkpoints.chatglm3(), "add_bias_linear", True),
        (tiny_checkpoints.gpt_bigcode(), "multi_query", False),
        (tiny_checkpoints.gpt_bigcode(), "activation_function", "relu"),
    ],
)
def test_settings_that_change_the_arithmetic_are_refused(
    tiny: TinyCheckpoint, key: str, value: object, tmp_path: Path
) -> None:
    changed = TinyCheckpoint({**tiny.config, key: value}, tiny.weights)
    with pytest.raises(CompileError, match=rf"{key} is .*, must be "):
        staged(changed, tmp_path)


def test_gpt_bigcode_attention_is_split_and_a_tied_head_dropped(tmp_path: Path) -> None:
    tiny = tiny_checkpoints.gpt_bigcode()
    config, weights = staged(tiny, tmp_path)
    fused = tiny.weights["transformer.h.1.attn.c_attn.weight"]
    parts = [weights[f"model.layers.1.self_attn.{part}_proj.weight"] for part in "qkv"]
    assert [len(part) for part in parts] == [128, 32, 32]
    assert np.array_equal(np.concatenate(parts), fused)
    assert "lm_head.weight" not in weights
    assert (config["intermediate_size"], config["tie_word_embeddings"]) == (512, True)


def test_an_untied_gpt_bigcode_head_is_kept(tmp_path: Path) -> None:
    tiny = tiny_checkpoints.gpt_bigcode()
    own = TinyCheckpoint({**tiny.config, "tie_word_embeddings": False}, tiny.weights)
    assert "lm_head.weight" in staged(own, tmp_path)[1]


def test_a_missing_config_key_is_named(tmp_path: Path) -> None:
    tiny = tiny_checkpoints.qwen1()
    config = {key: value for key, value in tiny.config.items() if key != "kv_channels"}
    with pytest.raises(CompileError, match="lacks 'kv_channels'"):
        staged(TinyCheckpoint(config, tiny.weights), tmp_path)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    tiny = tiny_checkpoints.qwen1()
    weights = {name: w for name, w in tiny.weights.items() if name != "transformer.h.1.ln_2.weight"}
    with pytest.raises(CompileError, match=r"lacks transformer\.h\.1\.ln_2\.weight"):
        staged(TinyCheckpoint(tiny.config, weights), tmp_path)


def test_a_tensor_of_another_architecture_is_named(tmp_path: Path) -> None:
    # Qwen-VL has the same model_type and more tensors.
    tiny = tiny_checkpoints.qwen1()
    weights = {**tiny.weights, "transformer.visual.proj": np.zeros((2, 2))}
    with pytest.raises(CompileError, match=r"no tensors transformer\.visual\.proj"):
        staged(TinyCheckpoint(tiny.config, weights), tmp_path)


def test_a_shape_that_the_config_contradicts_is_named(tmp_path: Path) -> None:
    tiny = tiny_checkpoints.qwen1()
    config = {**tiny.config, "kv_channels": 16}
    with pytest.raises(CompileError, match=r"c_attn\.weight has 384 rows, .* asks for 192"):
        staged(TinyCheckpoint(config, tiny.weights), tmp_path)


def test_rows_keep_their_bytes_in_any_dtype(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.int8).reshape(6, 2, 2)
    save_file({"all": values, "dropped": values}, tmp_path / "in")
    wanted = {
        "all": (Rows("odd", (range(5, 0, -2),)), Rows("even", (range(0, 6, 4), range(2, 3)))),
    }
    rewrite(tmp_path / "in", tmp_path / "out", wanted)
    got = load_file(tmp_path / "out")
    assert sorted(got) == ["even", "odd"]
    assert np.array_equal(got["odd"], values[[5, 3, 1]])
    assert np.array_equal(got["even"], values[[0, 4, 2]])


def test_what_is_no_safetensors_file_is_named(tmp_path: Path) -> None:
    tiny_checkpoints.qwen1().write(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(CompileError, match=r"00002\.safetensors is not a safetensors file"):
        Checkpoint.open(tmp_path).stage(tmp_path / "staged", "f16")


def test_a_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    tiny_checkpoints.qwen1().write(tmp_path)
    last = tmp_path / "model-00002-of-00002.safetensors"
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(CompileError, match=r"00002\.safetensors ends before its last tensor"):
        Checkpoint.open(tmp_path).stage(tmp_path / "staged", "f16")


def test_the_served_config_is_the_checkpoints_own(tmp_path: Path) -> None:
    tiny = tiny_checkpoints.qwen1()
    source = tiny.write(tmp_path / "own")
    (source / "qwen.tiktoken").write_text("IQ== 0\n")
    (tmp_path / "nets").write_bytes(b"nets")
    layout = Layout("tiny", "x.bmodel", slots=1)
    out = tmp_path / "model"
    write_model_directory(out, [tmp_path / "nets"], Checkpoint.open(source), layout)
    assert (out / "config" / "qwen.tiktoken").read_text() == "IQ== 0\n"
    assert json.loads((out / "config" / "config.json").read_text()) == tiny.config
