"""What the compiler refuses, what it asks the converter for, and the files it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compiler.__main__ import main, options_of, parse
from compiler.checkpoint import Checkpoint
from compiler.convert import Options, _combine_order
from compiler.errors import CompileError
from compiler.model_directory import Layout, write_model_directory
from tests.support import llama_checkpoints
from tpuserve import model_dir


@pytest.fixture
def checkpoint_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    llama_checkpoints.qwen2().write(directory)
    (directory / "tokenizer.json").write_text("{}")
    (directory / "notes.txt").write_text("not for serving")
    return directory


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(0), "seq is 0"),
        (Options(64, "f8"), "quantize is 'f8'"),
        (Options(64, history=True), "needs a chunk length"),
        (Options(64, history=True, chunk_tokens=16, max_input_tokens=8), "leave max-input out"),
        (Options(64, chunk_tokens=33), "at most 32"),
        (Options(64, max_input_tokens=65), r"at most seq \(64\)"),
        (Options(64, argmax_head=True, sample_head=True), "needs logits"),
        (Options(64, window=True, history=True, chunk_tokens=16), "with window there are seq"),
    ],
)
def test_refuses_what_the_converter_gets_wrong(options: Options, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        options.check()


def test_arguments_for_a_chunked_history_build() -> None:
    options = Options(512, history=True, chunk_tokens=64)
    options.check()
    assert " ".join(options.converter_arguments(Path("in"), Path("out"))) == (
        "llm_convert.py -m in -o out -c bm1684x -s 512 -q f16 -g 64 "
        "--use_history_kv --chunk_length 64 --do_sample"
    )


def test_an_argmax_head_is_the_converters_default() -> None:
    options = Options(128, "w4f16", dynamic=True, max_input_tokens=64, argmax_head=True)
    assert " ".join(options.converter_arguments(Path("in"), Path("out"))) == (
        "llm_convert.py -m in -o out -c bm1684x -s 128 -q w4f16 -g 64 "
        "--dynamic --max_input_length 64"
    )


def test_command_line_reaches_the_options() -> None:
    line = "in -o out --seq 256 --quantize bf16 --history --chunk 32 --remove-kernel"
    wanted = Options(256, "bf16", history=True, chunk_tokens=32, keep_kernel=False)
    assert options_of(parse(line.split())) == wanted


@pytest.mark.parametrize(
    ("quantize", "dtype"),
    [("f16", "float16"), ("w4f16", "float16"), ("bf16", "bfloat16"), ("w8bf16", "bfloat16")],
)
def test_the_converter_sees_the_dtype_that_it_computes_in(
    checkpoint_dir: Path, tmp_path: Path, quantize: str, dtype: str
) -> None:
    Checkpoint.open(checkpoint_dir).stage(tmp_path / "staged", quantize)
    staged = json.loads((tmp_path / "staged" / "config.json").read_text())
    assert staged == {**llama_checkpoints.qwen2().config, "torch_dtype": dtype}
    for weights in checkpoint_dir.glob("*.safetensors"):
        assert (tmp_path / "staged" / weights.name).read_bytes() == weights.read_bytes()


def test_variants_follow_the_longest_of_their_net() -> None:
    names = [
        "block_cache_1_1",
        "lm_head",
        "block_cache_10",
        "block_0",
        "block_cache_1",
        "block_kv_0",
    ]
    assert sorted(names, key=_combine_order) == [
        "lm_head",
        "block_0",
        "block_cache_1",
        "block_cache_1_1",
        "block_cache_10",
        "block_kv_0",
    ]


def test_the_model_directory_can_be_served(checkpoint_dir: Path, tmp_path: Path) -> None:
    bmodel = tmp_path / "combined.bmodel"
    bmodel.write_bytes(b"nets")
    out = tmp_path / "model"
    layout = Layout('a "quoted" name', "x.bmodel", slots=3)
    write_model_directory(out, [bmodel], Checkpoint.open(checkpoint_dir), layout)
    loaded = model_dir.load(out)
    assert (loaded.name, loaded.slots, loaded.bmodel.name) == ('a "quoted" name', 3, "x.bmodel")
    assert model_dir.bmodel_sha256(loaded) == loaded.sha256
    assert sorted(p.name for p in loaded.config.iterdir()) == ["config.json", "tokenizer.json"]


def test_an_existing_config_directory_is_shared(checkpoint_dir: Path, tmp_path: Path) -> None:
    bmodel = tmp_path / "combined.bmodel"
    bmodel.write_bytes(b"nets")
    layout = Layout("m", "x.bmodel", slots=1, shared_config="../checkpoint")
    write_model_directory(tmp_path / "model", [bmodel], Checkpoint.open(checkpoint_dir), layout)
    assert model_dir.load(tmp_path / "model").config == checkpoint_dir
    assert not (tmp_path / "model" / "config").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "does not exist"),
        ("{", "is not JSON"),
        ("[]", "holds no JSON object"),
        ('{"model_type": "bert"}', "'bert' is not supported"),
        ('{"model_type": "qwen2"}', r"neither \*.safetensors nor pytorch_model"),
    ],
)
def test_bad_checkpoints_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str | None, message: str
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(CompileError, match=message):
        Checkpoint.open(tmp_path)
    assert main([str(tmp_path), "-o", str(tmp_path / "out"), "--seq", "64"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_an_embedding_beside_the_bmodel_is_part_of_the_model(
    checkpoint_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "nets").write_bytes(b"nets")
    (tmp_path / "table").write_bytes(b"rows")
    out, checkpoint = tmp_path / "model", Checkpoint.open(checkpoint_dir)
    layout = Layout("m", "m.bmodel", slots=2)
    write_model_directory(
        out, [tmp_path / "nets"], checkpoint, layout, embedding=tmp_path / "table"
    )
    model = model_dir.load(out)
    assert model.embedding == out / "embedding.bin"
    assert model.sha256 == model_dir.bmodel_sha256(model)
    # Built again with the nets, the table is gone.
    write_model_directory(out, [tmp_path / "nets"], checkpoint, layout)
    assert model_dir.load(out).embedding is None
