"""Which vision checkpoints are refused, and how their tensors are laid out."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from compiler.checkpoint import Checkpoint
from compiler.convert import Options, convert
from compiler.environment import Environment
from compiler.errors import CompileError
from compiler.families import mllama
from models.mllama import checkpoint


@pytest.fixture
def config() -> dict[str, Any]:
    return copy.deepcopy(dict(checkpoint.load().config))


def test_the_small_model_is_complete(config: dict[str, Any]) -> None:
    mllama.check(config)
    assert mllama.tensors(config).keys() == checkpoint.shapes(config).keys()


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("text_config", "cross_attention_layers", [0, 3], "must lie between 1 and 3"),
        ("text_config", "cross_attention_layers", [1, 4], "must lie between 1 and 3"),
        ("text_config", "tie_word_embeddings", True, "tie_word_embeddings is true"),
        ("vision_config", "intermediate_layers_indices", [3, 1], "must ascend and lie between"),
        ("vision_config", "vision_output_dim", 320, "vision_output_dim is 320, must be 256"),
        ("vision_config", "image_size", 72, "image_size is 72, must be a multiple of patch_size"),
        ("vision_config", "supported_aspect_ratios", [[1, 1]], "supported_aspect_ratios is"),
    ],
)
def test_what_the_nets_do_not_cover_is_refused(
    config: dict[str, Any], part: str, key: str, value: object, message: str
) -> None:
    config[part][key] = value
    with pytest.raises(CompileError, match=message):
        mllama.check(config)


def test_a_missing_nested_key_is_named(config: dict[str, Any], tmp_path: Path) -> None:
    del config["text_config"]["max_position_embeddings"]
    source = checkpoint.Checkpoint(config, {}).write(tmp_path)
    with pytest.raises(CompileError, match=r"lacks 'text_config\.max_position_embeddings'"):
        Checkpoint.open(source).check(64, "f16")


def test_weights_are_linked_and_every_part_computes_in_one_type(tmp_path: Path) -> None:
    source = checkpoint.load().write(tmp_path / "source")
    Checkpoint.open(source).stage(tmp_path / "staged", "w4bf16")
    staged = tmp_path / "staged"
    assert (staged / "model.safetensors").is_symlink()
    assert Checkpoint.open(staged).config["text_config"]["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(64, argmax_head=True), "a model that takes images gets a logits head"),
        (Options(64, chips=2), "num-device is 2, must be 1: a model that takes images runs on"),
        (Options(64, images=0), "images is 0, must be at least 1"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, options: Options, message: str) -> None:
    source = Checkpoint.open(checkpoint.load().write(tmp_path / "source"))
    unused = Environment(tmp_path / "environment")
    with pytest.raises(CompileError, match=re.escape(message)):
        convert(source, options, unused, tmp_path)
