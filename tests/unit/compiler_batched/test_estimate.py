"""From a config and the compiler's profiles to speed and memory; nothing is compiled here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compiler.__main__ import main, options_of, parse
from compiler.checkpoint import Checkpoint
from compiler.errors import CompileError
from compiler.estimate.architecture import Architecture
from compiler.estimate.command import plan_of, report
from compiler.estimate.measure import Costs, Plan
from compiler.estimate.predict import CHIP_MEMORY_BYTES, first_token_ms, predict
from compiler.estimate.profile import NetCost, parse_profile
from compiler.estimate.published import MEASURED
from compiler.families.tensor_file import entries_in
from tests.support import llama_checkpoints, tiny_checkpoints
from tests.support.tiny_checkpoints import VOCAB, TinyCheckpoint

QWEN2 = {
    "model_type": "qwen2",
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "vocab_size": 152064,
}
PLAN = Plan(512, 128, (4, 1), "w4f16", "w8f16")


def cost(ms: float) -> NetCost:
    return NetCost(ms, 0, weight_bytes=1000, scratch_bytes=7, instruction_bytes=10)


COSTS = Costs(
    chunk=cost(1.0),
    chunk_behind=cost(3.0),
    decode={1: cost(2.0), 4: cost(2.5)},
    head_ms={1: 4.0, 4: 5.0},
    head_weight_bytes=100,
)


def test_sizes_come_from_the_config() -> None:
    found = Architecture.of(QWEN2)
    assert (found.layers, found.heads, found.kv_heads, found.head_dim) == (28, 28, 4, 128)
    assert (found.qkv_bias, found.qk_norm, found.tied) == (True, False, False)
    # 28 layers of 4 heads of 128, keys and values, 2 bytes: 57,344 bytes a token.
    assert found.kv_elements_per_token * 2 == 57344


def test_older_configs_are_read_by_their_own_names() -> None:
    configs = {row.model: Architecture.of(row.config) for row in MEASURED}
    assert configs["Qwen-7B"].inner == 11008
    assert configs["Qwen-7B"].kv_elements_per_token * 2 == 524288
    assert configs["ChatGLM3-6B"].kv_elements_per_token * 2 == 28672
    assert configs["Baichuan2-7B"].kv_heads == 32


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(CompileError, match="no estimate for model_type 'mamba'"):
        Architecture.of({"model_type": "mamba"})


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_the_layers_weights_are_those_of_its_kind(model_type: str) -> None:
    shapes = Architecture.of(QWEN2 | {"model_type": model_type}).layer_shapes(100)
    attention = "model.layers.0.self_attn."
    assert (attention + "q_proj.bias" in shapes) == (model_type == "qwen2")
    assert (attention + "k_norm.weight" in shapes) == (model_type == "qwen3")
    assert shapes[attention + "k_proj.weight"] == (512, 3584)
    assert shapes["lm_head.weight"] == (100, 3584)


@pytest.mark.parametrize(
    "tiny",
    [
        tiny_checkpoints.gpt_bigcode(),
        tiny_checkpoints.qwen1(),
        tiny_checkpoints.chatglm3(),
        llama_checkpoints.qwen3(),
    ],
    ids=lambda tiny: str(tiny.config["model_type"]),
)
def test_the_layers_weights_are_what_a_checkpoint_is_staged_as(
    tiny: TinyCheckpoint, tmp_path: Path
) -> None:
    Checkpoint.open(tiny.write(tmp_path / "own")).stage(tmp_path / "staged", "f16")
    staged: dict[str, tuple[int, ...]] = {}
    for path in (tmp_path / "staged").glob("*.safetensors"):
        staged |= {name: entry.shape for name, entry in entries_in(path).items()}
    # Final norms are the last layer's.
    wanted = {n: s for n, s in staged.items() if ".layers.1." not in n and "model.norm." not in n}
    got = Architecture.of(tiny.config).layer_shapes(VOCAB)
    heads = {"lm_head.weight", "model.norm.weight"}
    assert {n: s for n, s in got.items() if n not in heads} == {
        n: s for n, s in wanted.items() if n not in heads
    }


def test_a_profile_gives_time_and_traffic(tmp_path: Path) -> None:
    profile = tmp_path / "compiler_profile_0.txt"
    profile.write_text(
        "Load|GDMA|s:0\nTCYC : 1500000\n"
        "GDMA SUMMARY : |dr[0] S2L:700|dr[1] L2S:20|dr[2] S2S:3|dr[3] L2L:9000\n"
    )
    assert parse_profile(profile) == (1.5, 723)
    profile.write_text("nothing")
    with pytest.raises(CompileError, match="no total of cycles"):
        parse_profile(profile)
    with pytest.raises(CompileError, match="only static nets leave a profile"):
        parse_profile(tmp_path / "other.txt")


def test_a_step_is_all_layers_and_the_head() -> None:
    one, four = predict(Architecture.of(QWEN2), PLAN, COSTS)
    assert (one.batch, one.step_ms, four.step_ms) == (1, 2.0 * 28 + 4, 2.5 * 28 + 5)
    assert four.tokens_per_s == pytest.approx(4000 / 75)
    assert four.memory_bytes - one.memory_bytes == 3 * 512 * 57344
    weights = 1000 * 28 + 100 + 152064 * 3584 * 2
    assert one.memory_bytes == weights + 512 * 57344 + 3 * 10 * 28 + 7
    assert one.fits


def test_what_does_not_fit_is_said() -> None:
    plan = Plan(1 << 17, 128, (4, 1), "w4f16", "w8f16")
    four = predict(Architecture.of(QWEN2), plan, COSTS)[1]
    assert four.memory_bytes > CHIP_MEMORY_BYTES
    assert not four.fits
    text = report(Architecture.of(QWEN2), plan, COSTS)
    assert text.count("does not fit one chip") == 1


def test_the_first_token_waits_for_every_chunk() -> None:
    found = Architecture.of(QWEN2)
    assert first_token_ms(found, PLAN, COSTS, 1) == 28 * 1.0 + 4
    # Chunks stand behind 0, 128, 256 and 384 of 512 tokens.
    assert first_token_ms(found, PLAN, COSTS, 512) == 28 * (1.0 + 1.5 + 2.0 + 2.5) + 4


def test_batch_sizes_up_to_the_one_that_was_asked_for() -> None:
    line = "CONFIG --estimate --seq 2048 --quantize w4f16 --batch 12 --head w8f16"
    plan = plan_of(options_of(parse(line.split())))
    assert plan == Plan(2048, 128, (1, 4, 8, 12), "w4f16", "w8f16", 64)
    assert plan_of(options_of(parse(["C", "--estimate", "--seq", "64"]))).batches == (1, 4, 8, 16)


def test_only_an_estimate_goes_without_an_output(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["HF", "--seq", "64"])
    assert "-o/--output" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no JSON object"),
        (json.dumps({"model_type": "mamba"}), "no estimate"),
    ],
)
def test_a_bad_config_is_refused(
    content: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("compiler.environment.Environment.prepare", lambda self: None)
    (tmp_path / "config.json").write_text(content)
    assert main([str(tmp_path), "--estimate", "--seq", "64"]) == 1
    assert message in capsys.readouterr().err
