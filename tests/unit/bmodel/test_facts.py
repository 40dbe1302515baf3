"""Language model facts and memory budgets of the demo bmodels, which the compiler was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tpuserve import bmodel

ROOT = Path(__file__).resolve().parents[3]
VISION = ROOT / "tests/fixtures/models/mllama/vision_f16.bmodel"
MODELS = {
    "history": ROOT / "models/demo/demo_f16.bmodel",
    **{
        path.parent.name: path
        for path in ROOT.glob("tests/fixtures/models/*/*.bmodel")
        if ".chip" not in path.name and path != VISION
    },
}


def described(name: str) -> bmodel.LanguageModel:
    found = bmodel.describe(bmodel.read(MODELS[name]))
    assert found is not None
    return found


@pytest.mark.parametrize("name", MODELS)
def test_shapes(name: str) -> None:
    found = described(name)
    assert (found.layers, found.hidden_size, found.kv_heads, found.head_dim) == (3, 128, 2, 32)
    assert found.dtype == {"bf16": "bfloat16", "window": "float32"}.get(name, "float16")
    # 3 layers × K and V × 2 heads × 32 × 2 or 4 bytes
    row_bytes = 1536 if name == "window" else 768
    assert found.kv_bytes_per_token == row_bytes
    assert found.kv_bytes_per_slot == row_bytes * found.context_length


@pytest.mark.parametrize(
    ("name", "lengths", "decode"),
    [
        ("history", (512, 511, 64), (512, 256, 128, 64)),
        ("argmax", (512, 511, 64), (512, 256, 128, 64)),
        ("w4f16", (256, 255, 64), (256, 128, 64)),
        ("dynamic", (512, 256, 256), (512,)),
        ("static", (128, 64, 64), (128,)),
        ("share", (192, 96, 64), (192,)),
        ("prompt", (256, 160, 96), (256,)),
        ("window", (64, 63, 63), (64,)),
    ],
)
def test_lengths(name: str, lengths: tuple[int, int, int], decode: tuple[int, ...]) -> None:
    found = described(name)
    assert (found.context_length, found.max_prompt_length, found.prefill_chunk_tokens) == lengths
    assert found.decode_lengths == decode


@pytest.mark.parametrize(
    ("name", "present", "absent"),
    [
        ("history", {"history", "logits", "dynamic-prefill", "decode-variants"}, {"argmax-head"}),
        ("argmax", {"history", "argmax-head"}, {"logits", "greedy-head"}),
        ("dynamic", {"dynamic-prefill", "logits"}, {"history", "decode-variants"}),
        ("static", {"logits"}, {"history", "dynamic-prefill", "decode-variants"}),
        ("share", {"history", "logits", "shared-prefix"}, {"dynamic-prefill"}),
        ("prompt", {"history", "logits", "shared-prefix"}, {"dynamic-prefill"}),
        ("disk", {"logits", "embedding-disk", "greedy-head", "sample-head"}, {"history"}),
        ("window", {"logits", "kv-window"}, {"history", "greedy-head"}),
    ],
)
def test_features(name: str, present: set[str], absent: set[str]) -> None:
    features = set(described(name).features)
    assert present <= features
    assert not absent & features
    assert described(name).vocab_size == (0 if name == "argmax" else 1024)


def test_a_batch_shares_one_context() -> None:
    assert described("batch4").decode_rows == 4
    assert "batched-decode" in described("batch4").features
    budget = bmodel.memory_budget(bmodel.read(MODELS["batch4"]))
    assert budget.context_slots == 4
    assert budget.total_bytes(4) == budget.total_bytes(1)
    # The KV of all four lives in the io memory of their decode nets.
    assert budget.context_io_bytes > 4 * described("batch4").kv_bytes_per_slot


def test_decode_nets_without_memory_of_their_own_are_counted_with_it() -> None:
    budget = bmodel.memory_budget(bmodel.read(MODELS["window"]))
    assert budget.context_slots == 1
    # The history of a slot, and the window that each net puts out.
    assert budget.context_io_bytes >= 2 * described("window").kv_bytes_per_slot


def test_a_vision_model_has_two_kinds_of_layers_and_room_for_images() -> None:
    content = bmodel.read(VISION)
    found = bmodel.describe(content)
    assert found is not None
    vision = found.vision
    assert vision is not None
    assert (found.layers, vision.layers, found.decode_rows) == (3, 2, 4)
    assert {"vision", "vit", "history", "batched-decode"} <= set(found.features)
    assert (vision.max_images, vision.max_tiles) == (2, 4)
    # A patch has 14 pixels a side; the class makes one more.
    assert (vision.tile_tokens, vision.image_size) == ((70 // 14) ** 2 + 1, 70)
    # 3 layers × K and V × 2 heads × 16 × 2 bytes
    assert found.kv_bytes_per_token == 384
    # 2 layers × K and V × images × tiles × keys × 2 heads × 16 × 2 bytes
    assert vision.image_bytes_per_slot == 2 * 2 * 2 * 4 * 26 * 2 * 16 * 2
    # A chunk of 64 rows sees all keys, or not.
    assert vision.mask_bytes == 64 * 2 * 4 * 26 * 2
    budget = bmodel.memory_budget(content)
    assert budget.image_bytes == 4 * 26 * 128 * 2
    slots_bytes = 4 * (found.kv_bytes_per_slot + vision.image_bytes_per_slot)
    assert budget.context_io_bytes > slots_bytes + vision.mask_bytes
    assert budget.total_bytes(4) > budget.weights_bytes + budget.image_bytes + slots_bytes


def test_a_model_for_text_has_no_room_for_images() -> None:
    assert described("static").vision is None
    assert bmodel.memory_budget(bmodel.read(MODELS["static"])).image_bytes == 0


def test_other_nets_are_no_language_model() -> None:
    content = bmodel.read(MODELS["static"])
    nets = tuple(net for net in content.nets if net.name != "block_cache_0")
    other = bmodel.Bmodel("BM1684X", "", "", 1, 0, 0, nets)
    assert bmodel.describe(other) is None


@pytest.mark.parametrize("name", MODELS)
def test_memory(name: str) -> None:
    content = bmodel.read(MODELS[name])
    budget = bmodel.memory_budget(content)
    assert content.file_bytes * 0.5 < budget.weights_bytes < content.file_bytes
    # The KV of a slot lives in the io memory of its decode nets.
    assert budget.context_io_bytes > described(name).kv_bytes_per_slot
    grown = budget.total_bytes(4 * budget.context_slots + 1) - budget.total_bytes(1)
    assert grown == 4 * (budget.context_io_bytes + budget.context_instruction_bytes)
    assert budget.total_bytes(1) > budget.weights_bytes + budget.neuron_bytes


def test_variants_of_a_net_share_io_memory_and_weights() -> None:
    content = bmodel.read(MODELS["history"])
    net = content.net("block_cache_0")
    assert net is not None
    weights = net.variants[0].weights
    assert weights is not None
    budget = bmodel.memory_budget(
        bmodel.Bmodel("BM1684X", "", "", 1, 0, 0, (net,)),
    )
    assert budget.weights_bytes == weights.size_bytes
    assert budget.context_io_bytes == net.variants[0].io_bytes
