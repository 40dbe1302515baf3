"""Weights in every file form that is read, and what is said of the others."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from compiler.checkpoint import Checkpoint
from compiler.errors import CompileError
from compiler.group_size import check_group_size
from compiler.torch_file import TorchFile
from compiler.weights import as_safetensors, find
from tests.support import llama_checkpoints, tiny_checkpoints, torch_writer
from tests.support.tiny_checkpoints import TinyCheckpoint
from tests.support.torch_writer import View


def staged(tiny: TinyCheckpoint, source: Path, directory: Path) -> dict[str, Any]:
    checkpoint = Checkpoint.open(source)
    checkpoint.check(64, "f16")
    checkpoint.stage(directory / "staged", "f16")
    found: dict[str, Any] = {}
    for path in (directory / "staged").glob("*.safetensors"):
        found |= load_file(path)
    return found


@pytest.mark.parametrize("tiny", [llama_checkpoints.qwen3(), tiny_checkpoints.qwen1()])
def test_sharded_torch_files_stage_as_safetensors_do(tiny: TinyCheckpoint, tmp_path: Path) -> None:
    torch_writer.save_shards(tiny, tmp_path / "bins")
    got = staged(tiny, tmp_path / "bins", tmp_path / "one")
    wanted = staged(tiny, tiny.write(tmp_path / "tensors"), tmp_path / "two")
    assert got.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(got[name], values)


def test_every_type_and_every_view_of_a_storage(tmp_path: Path) -> None:
    source = np.arange(24, dtype=np.float32)
    tensors: dict[str, Any] = {
        "whole": source.reshape(4, 6),
        "transposed": View(source, 0, (6, 4), (1, 6)),
        "slice": View(source, 6, (2, 6), (6, 1)),
        "column": View(source, 5, (4,), (6,)),
        "half": np.array([0.5, -2], np.float16),
        "brain": np.array([0x3F80, 0xC000], np.uint16),
        "double": np.array([1e-3]),
        "scalar": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
    }
    torch_writer.save(tmp_path / "pytorch_model.bin", tensors)
    [made] = as_safetensors([tmp_path / "pytorch_model.bin"], tmp_path / "out")
    # numpy has no bfloat16, and safetensors.numpy refuses what it cannot name.
    header_bytes = int.from_bytes(made.read_bytes()[:8], "little")
    header = json.loads(made.read_bytes()[8 : 8 + header_bytes])
    assert {name: entry["dtype"] for name, entry in header.items()} == {
        "whole": "F32",
        "transposed": "F32",
        "slice": "F32",
        "column": "F32",
        "half": "F16",
        "brain": "BF16",
        "double": "F32",
        "scalar": "I64",
        "empty": "F32",
    }
    with TorchFile(tmp_path / "pytorch_model.bin") as file:
        read = {name: file.values(name) for name in file.tensors}
    np.testing.assert_array_equal(read["whole"], source.reshape(4, 6))
    np.testing.assert_array_equal(read["transposed"], source.reshape(4, 6).T)
    np.testing.assert_array_equal(read["slice"], source.reshape(4, 6)[1:3])
    np.testing.assert_array_equal(read["column"], [5, 11, 17, 23])
    np.testing.assert_array_equal(read["brain"], [0x3F80, 0xC000])
    assert read["empty"].shape == (0, 3)
    body = made.read_bytes()[8 + header_bytes :]
    start, end = header["double"]["data_offsets"]
    np.testing.assert_array_equal(
        np.frombuffer(body[start:end], np.float32), np.array([1e-3], np.float32)
    )


def archive(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content)
    return path


class Harmful:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_a_pickle_that_calls_anything_else_is_refused_and_not_run(tmp_path: Path) -> None:
    content = pickle.dumps({"w": Harmful(tmp_path / "touched")})
    with pytest.raises(CompileError, match="which weights do not need"):
        TorchFile(archive(tmp_path / "m.bin", content))
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02garbage", "broken pickle"),
        (pickle.dumps([1, 2]), "holds a list"),
        (pickle.dumps(3), "holds a int"),
    ],
)
def test_broken_pickles_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=message):
        TorchFile(archive(tmp_path / "m.bin", content))


def test_files_of_other_formats_are_named(tmp_path: Path) -> None:
    (tmp_path / "old.bin").write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C))
    with pytest.raises(CompileError, match=r"PyTorch 1.6 and later"):
        TorchFile(tmp_path / "old.bin")
    with zipfile.ZipFile(tmp_path / "zip.bin", "w") as file:
        file.writestr("readme", "nothing")
    with pytest.raises(CompileError, match=r"not one that torch\.save wrote"):
        TorchFile(tmp_path / "zip.bin")


def test_a_view_that_leaves_its_storage_is_refused(tmp_path: Path) -> None:
    outside = View(np.zeros(4, np.float32), 2, (3,), (1,))
    torch_writer.save(tmp_path / "m.bin", {"w": outside})
    with TorchFile(tmp_path / "m.bin") as file, pytest.raises(CompileError, match="ends at"):
        file.values("w")


def test_missing_shards_are_counted_and_named(tmp_path: Path) -> None:
    tiny = llama_checkpoints.qwen2()
    files = torch_writer.save_shards(tiny, tmp_path / "bins")
    (tmp_path / "bins" / files[0]).unlink()
    with pytest.raises(CompileError, match=r"1 of 2 weight files are missing in .*: " + files[0]):
        find(tmp_path / "bins")
    source = tiny.write(tmp_path / "tensors")
    index = {"weight_map": {"a": "model-a.safetensors", "b": "model-b.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CompileError, match="2 of 2 weight files are missing"):
        find(source)
    (source / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../a"}}')
    with pytest.raises(CompileError, match="outside its directory"):
        find(source)
    (source / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(CompileError, match="not an index"):
        find(source)


def test_only_the_listed_files_are_read(tmp_path: Path) -> None:
    source = llama_checkpoints.qwen2().write(tmp_path / "tensors")
    names = sorted(path.name for path in source.glob("*.safetensors"))
    (source / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict(enumerate(names))})
    )
    save_file({"lora": np.zeros(1, np.float32)}, source / "adapter_model.safetensors")
    assert [path.name for path in find(source)] == names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.layers.1.mlp.up_proj.weight": None}, "lacks model.layers.1.mlp.up_proj.weight"),
        ({"model.layers.0.self_attn.q_proj.bias": None}, "lacks model.layers.0.self_attn.q_proj"),
        ({"model.norm.weight": np.ones(64)}, r"model.norm.weight is \[64\], .* asks for \[128\]"),
        ({"model.layers.0.extra.weight": np.ones(2)}, "qwen2 has no tensors model.layers.0.extra"),
    ],
)
def test_tensors_that_do_not_fit_the_configuration(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    tiny = llama_checkpoints.qwen2()
    weights = {n: w for n, w in {**tiny.weights, **change}.items() if w is not None}
    changed = TinyCheckpoint(tiny.config, weights)
    with pytest.raises(CompileError, match=message):
        staged(changed, changed.write(tmp_path / "own"), tmp_path)


@pytest.mark.parametrize(
    ("settings", "quantize", "message"),
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "f16", "rope type is 'dynamic'"),
        ({"hidden_act": "gelu"}, "f16", "hidden_act is"),
        ({"use_sliding_window": True, "sliding_window": 32}, "f16", "sliding_window"),
        ({"quantization_config": {"quant_method": "fp8"}}, "f16", "quantized with 'fp8'"),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64}},
            "f16",
            "quantize must be w4f16, not f16",
        ),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4, "desc_act": True}},
            "w4f16",
            "desc_act of the gptq checkpoint is True, not False",
        ),
        ({"quantization_config": {"quant_method": "awq", "bits": 8}}, "w4f16", "is 8, not 4"),
    ],
)
def test_settings_that_the_converter_would_ignore(
    settings: dict[str, Any], quantize: str, message: str, tmp_path: Path
) -> None:
    tiny = llama_checkpoints.qwen2()
    source = TinyCheckpoint({**tiny.config, **settings}, tiny.weights).write(tmp_path)
    with pytest.raises(CompileError, match=message):
        Checkpoint.open(source).check(64, quantize)


@pytest.mark.parametrize(
    ("tiny", "group", "message"),
    [
        (llama_checkpoints.qwen2(), 128, r"must divide the model's intermediate_size \(192\)"),
        (tiny_checkpoints.qwen1(), 80, r"must divide the model's hidden_size \(128\)"),
        (tiny_checkpoints.gpt_bigcode(), 0, "group-size is 0, must be positive"),
    ],
)
def test_groups_fill_the_rows_of_four_bit_matrices(
    tiny: TinyCheckpoint, group: int, message: str, tmp_path: Path
) -> None:
    config = Checkpoint.open(tiny.write(tmp_path / "own")).stage(tmp_path / "staged", "w4f16")
    check_group_size(config, "w4f16", 64)
    check_group_size(config, "w8f16", group)
    with pytest.raises(CompileError, match=message):
        check_group_size(config, "w4f16", group)
