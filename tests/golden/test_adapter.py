"""LoRA adapters on a bmodel that takes them, against a reference with merged weights.

The fixture is `tests.support.llama_checkpoints.llama3()` in float16, compiled by
`llm_convert.py -s 128 -q f16 -c bm1684x --lora_max_rank 8`, without the kernel module.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from device_svc.engine_api import EngineStartError
from device_svc.loading import LoadOptions, plan_model
from tests.golden.models import cosine
from tests.support import float_models, llama_checkpoints
from tests.support.device_client import device_session
from tests.support.service_process import ROOT, service_process
from tpuserve import runtime_library
from tpuserve.adapter import AdapterError
from tpuserve.v1 import device_pb2, device_pb2_grpc

BMODEL = ROOT / "tests/fixtures/adapters/tiny_llama_lora8.bmodel"
LAYERS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
PROMPT = [(37 * index + 5) % 300 for index in range(20)]
STEPS = 8

Weights = dict[str, NDArray[np.float32]]


def base_weights() -> Weights:
    weights = llama_checkpoints.llama3().weights
    return {
        name: np.asarray(value).astype(np.float16).astype(np.float32)
        for name, value in weights.items()
    }


def write_adapter(directory: Path, *, seed: int, rank: int = 4, **settings: Any) -> Weights:
    """A random adapter of both layers; the model's weights with it merged in."""
    directory.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    merged, stored = base_weights(), {}
    for layer in range(2):
        for name in LAYERS:
            full = f"model.layers.{layer}.{name}"
            width_out, width_in = merged[f"{full}.weight"].shape
            a = (draw.standard_normal((rank, width_in)) * 0.15).astype(np.float16)
            b = (draw.standard_normal((width_out, rank)) * 0.15).astype(np.float16)
            stored[f"base_model.model.{full}.lora_A.weight"] = a
            stored[f"base_model.model.{full}.lora_B.weight"] = b
            merged[f"{full}.weight"] += 2 * b.astype(np.float32) @ a.astype(np.float32)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, **settings}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    save_file(stored, directory / "adapter_model.safetensors")
    return merged


def model_directory(path: Path, *, adapter: bool, bmodel: Path = BMODEL) -> Path:
    (path / "config").mkdir(parents=True)
    shutil.copyfile(bmodel, path / bmodel.name)
    (path / "tpuserve.toml").write_text("[model]\n" + 'adapter = "adapter"\n' * adapter)
    return path


def options() -> LoadOptions:
    return LoadOptions(runtime_library.find("emulator"), slots=2)


def reference(weights: Weights, ids: list[int]) -> NDArray[np.float32]:
    config = llama_checkpoints.llama3().config
    doubles = {name: value.astype(np.float64) for name, value in weights.items()}
    return np.asarray(float_models.qwen2(config, doubles, np.array(ids)), np.float32)


def test_computes_what_merged_weights_do(tmp_path: Path) -> None:
    merged = write_adapter(tmp_path / "model" / "adapter", seed=1)
    plan = plan_model(model_directory(tmp_path / "model2", adapter=False), options())
    shutil.copytree(tmp_path / "model2", tmp_path / "model", dirs_exist_ok=True)
    (tmp_path / "model" / "tpuserve.toml").write_text('[model]\nadapter = "adapter"\n')
    adapted = plan_model(tmp_path / "model", options())
    assert adapted.sha256 != plan.sha256, "requests must not be resumed on the other"
    assert adapted.kv is None
    assert adapted.changes_weights
    engine = adapted.open_engine(memories=adapted.memories)
    try:
        ids = list(PROMPT)
        row = engine.prefill(1, np.array(ids, np.int32), 0, last=True)
        assert row is not None
        for _ in range(STEPS):
            logits = np.asarray(row, np.float32).reshape(-1)
            expected = reference(merged, ids)[-1]
            assert cosine(logits, expected) > 0.9999
            assert cosine(logits, reference(base_weights(), ids)[-1]) < 0.9
            ids.append(int(np.argmax(logits)))
            row = engine.decode([1], np.array(ids[-1:], np.int32))
    finally:
        engine.close()


def greedy(weights: Weights) -> list[int]:
    ids = list(PROMPT)
    while len(ids) < len(PROMPT) + STEPS:
        ids.append(int(np.argmax(reference(weights, ids)[-1])))
    return ids[len(PROMPT) :]


async def test_swapping_models_switches_adapters(tmp_path: Path) -> None:
    """The weights on the chip are the same block for all four: none may see another's adapter."""
    plain = model_directory(tmp_path / "plain", adapter=False)
    expected = {"plain": greedy(base_weights())}
    for seed, name in enumerate(("a", "b"), 1):
        model_directory(tmp_path / name, adapter=True)
        expected[name] = greedy(write_adapter(tmp_path / name / "adapter", seed=seed))
    assert len({tuple(ids) for ids in expected.values()}) == 3
    arguments = ("--model", str(plain), "--runtime", "emulator", "--swap-root", str(tmp_path))
    listen = ("--listen", "127.0.0.1:0", "--slots", "2")
    with service_process("device_svc", *arguments, *listen, stderr=tmp_path / "log") as process:
        address = process.wait_for("ready")["address"]
        for name in ("plain", "a", "b", "plain", "b"):
            async with grpc.aio.insecure_channel(address) as channel:
                stub: Any = device_pb2_grpc.DeviceStub(channel)
                await stub.SwapModel(device_pb2.SwapModelRequest(model_directory=name))
                info = await stub.GetInfo(device_pb2.GetDeviceInfoRequest())
            async with device_session(address, info.model.bmodel_sha256) as session:
                await session.submit("x", PROMPT, STEPS)
                assert (await session.result("x"))[0] == expected[name], name


def open_and_close(directory: Path) -> None:
    plan = plan_model(directory, options())
    plan.open_engine(memories=plan.memories).close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 16}, "has rank 16, the bmodel takes 8 at most"),
        ({"use_dora": True}, "use_dora is True, which is not supported"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3', must be 'LORA'"),
        ({"r": 3}, "has A .4, 192. and B .128, 4., the rank is 3"),
    ],
)
def test_refuses_another_kind_of_adapter(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = model_directory(tmp_path / "model", adapter=True)
    write_adapter(model / "adapter", seed=1, **settings)
    with pytest.raises((AdapterError, EngineStartError), match=message):
        open_and_close(model)


def test_refuses_what_the_bmodel_does_not_take(tmp_path: Path) -> None:
    demo = ROOT / "tests/fixtures/models/static/demo_f16_static.bmodel"
    other = model_directory(tmp_path / "demo", adapter=True, bmodel=demo)
    write_adapter(other / "adapter", seed=1)
    model = model_directory(tmp_path / "model", adapter=True)
    write_adapter(model / "adapter", seed=1)
    weights = model / "adapter" / "adapter_model.safetensors"
    shape = np.zeros((4, 128), np.float32)
    name = "model.embed_tokens"
    save_file({f"{name}.lora_A.weight": shape, f"{name}.lora_B.weight": shape.T.copy()}, weights)
    for directory, message in (
        (other, "the bmodel was compiled without adapters"),
        (model, "the bmodel takes no adapter for model.embed_tokens"),
    ):
        with pytest.raises(EngineStartError, match=message):
            open_and_close(directory)
    weights.write_bytes(b"no such thing")
    with pytest.raises(AdapterError, match="is no safetensors file"):
        plan_model(model, options())
    weights.unlink()
    with pytest.raises(AdapterError, match=r"adapter_model.safetensors: No such file"):
        plan_model(model, options())
