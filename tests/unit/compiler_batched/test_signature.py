"""The batched fixture keeps the contract that the runtime finds by its shapes and addresses."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from tpuserve import model_dir
from tpuserve.bmodel import reader
from tpuserve.bmodel.model import Bmodel, Net, Variant

FIXTURE = Path(__file__).resolve().parents[2] / "fixtures" / "models" / "batch4"
SLOTS, LAYERS, HIDDEN, KV_HEADS, HEAD_DIM, VOCAB = 4, 3, 128, 2, 32, 1024
ROW_BYTES = KV_HEADS * HEAD_DIM * 2
VARIANTS = [(4, 256), (4, 32), (1, 256), (1, 32)]


@pytest.fixture(scope="module")
def bmodel() -> Bmodel:
    return reader.read(model_dir.load(FIXTURE).bmodel)


def net(bmodel: Bmodel, name: str) -> Net:
    found = bmodel.net(name)
    assert found is not None, name
    return found


def rows_and_length(variant: Variant) -> tuple[int, int]:
    return variant.inputs[0].shape[0], variant.inputs[3].shape[1]


@pytest.mark.parametrize("layer", range(LAYERS))
def test_decode_takes_the_kv_of_every_slot_in_every_variant(bmodel: Bmodel, layer: int) -> None:
    decode = net(bmodel, f"block_cache_{layer}")
    assert decode.io_alone
    assert not decode.dynamic
    assert [rows_and_length(variant) for variant in decode.variants] == VARIANTS
    for variant in decode.variants:
        rows, length = rows_and_length(variant)
        history = (1, length, KV_HEADS, HEAD_DIM)
        assert [tensor.shape for tensor in variant.inputs] == [
            (rows, 1, HIDDEN),
            (rows, 1),
            (rows, 1, 1, length + 1),
            *[history] * (2 * SLOTS),
        ]
        assert [tensor.name for tensor in variant.inputs[3:]] == [
            f"history_{kind}_{slot}" for slot in range(SLOTS) for kind in "kv"
        ]
        assert [tensor.name for tensor in variant.outputs] == [
            "output_states",
            *(f"{kind}_cache_{slot}" for slot in range(SLOTS) for kind in "kv"),
        ]
        assert variant.outputs[0].shape == (rows, 1, HIDDEN)
        assert {tensor.shape for tensor in variant.outputs[1:]} == {(1, 1, KV_HEADS, HEAD_DIM)}


@pytest.mark.parametrize("layer", range(LAYERS))
def test_variants_share_addresses_and_weights(bmodel: Bmodel, layer: int) -> None:
    variants = net(bmodel, f"block_cache_{layer}").variants
    assert len({tuple(t.address for t in variant.inputs) for variant in variants}) == 1
    nets = [net(bmodel, f"{kind}_{layer}") for kind in ("block", "block_kv", "block_cache")]
    weights = {v.weights.sha256 for n in nets for v in n.variants if v.weights is not None}
    assert len(weights) == 1


def test_the_new_row_of_a_computing_slot_lies_behind_its_history(bmodel: Bmodel) -> None:
    # Hence nothing is copied, and hence row `length` of every computing slot is overwritten. What a
    # slot that does not compute returns is row 0 of its history, in place.
    for variant in net(bmodel, "block_cache_0").variants:
        rows, length = rows_and_length(variant)
        for history, new_row in zip(variant.inputs[3:], variant.outputs[1:], strict=True):
            slot = int(history.name.rpartition("_")[2])
            behind = length if slot < rows else 0
            assert new_row.address == history.address + behind * ROW_BYTES, new_row.name


def test_slots_do_not_overlap_and_leave_room_for_the_scratch_row(bmodel: Bmodel) -> None:
    largest = net(bmodel, "block_cache_0").variants[0]
    histories = sorted(largest.inputs[3:], key=lambda tensor: tensor.address)
    for lower, upper in pairwise(histories):
        assert lower.address + lower.size_bytes + ROW_BYTES <= upper.address


@pytest.mark.parametrize(
    ("name", "taken", "given", "dtypes"),
    [
        ("embedding_cache", (1,), (1, HIDDEN), ("int32", "float16")),
        ("lm_head", (HIDDEN,), (VOCAB,), ("float16", "float32")),
        ("greedy_head", (VOCAB,), (1,), ("float32", "int32")),
    ],
)
def test_embedding_and_heads_come_in_the_ladders_rows(
    bmodel: Bmodel,
    name: str,
    taken: tuple[int, ...],
    given: tuple[int, ...],
    dtypes: tuple[str, str],
) -> None:
    found = net(bmodel, name)
    assert not found.dynamic
    shapes = [(v.inputs[0].shape, v.outputs[0].shape) for v in found.variants]
    assert shapes == [((rows, *taken), (rows, *given)) for rows in (4, 1)]
    for variant in found.variants:
        assert (variant.inputs[0].dtype, variant.outputs[0].dtype) == dtypes
        assert len(variant.outputs) == 1


def test_prefill_is_that_of_one_sequence(bmodel: Bmodel) -> None:
    for layer in range(LAYERS):
        assert net(bmodel, f"block_{layer}").variants[0].inputs[0].shape == (1, 64, HIDDEN)
        behind = net(bmodel, f"block_kv_{layer}").variants[0]
        assert behind.inputs[-1].shape == (1, 256, KV_HEADS, HEAD_DIM)
