"""Which variants are built, and what the batched converter is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.__main__ import options_of, parse
from compiler.batched.ladder import MAX_SLOTS, Variant, default_lengths, ladder
from compiler.convert import Options
from compiler.errors import CompileError


@pytest.mark.parametrize(
    ("slots", "rows"),
    [(1, [1]), (2, [2]), (4, [4, 1]), (8, [8, 2]), (16, [16, 4, 1]), (32, [32, 8, 2])],
)
def test_rows_fall_by_fours(slots: int, rows: list[int]) -> None:
    assert [variant.rows for variant in ladder(slots, [64])] == rows


def test_the_largest_variant_comes_first_because_it_sets_the_addresses() -> None:
    variants = ladder(16, [128, 512, 128])
    assert variants[0] == Variant(16, 512) == max(variants)
    assert len(variants) == len(set(variants)) == 6


@pytest.mark.parametrize(
    ("slots", "lengths", "message"),
    [
        (0, [64], "slots is 0"),
        (MAX_SLOTS + 1, [64], f"must be 1 to {MAX_SLOTS}"),
        (4, [], r"lengths are \[\]"),
        (4, [64, 0], r"lengths are \[64, 0\]"),
    ],
)
def test_numbers_out_of_range_are_named(slots: int, lengths: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ladder(slots, lengths)


@pytest.mark.parametrize(
    ("seq", "chunk", "lengths"),
    [
        (2048, 128, (2048, 1024, 512)),
        (512, 0, (512,)),
        (512, 256, (512, 256)),
        (500, 251, (500,)),
    ],
)
def test_default_lengths_hold_a_chunk(seq: int, chunk: int, lengths: tuple[int, ...]) -> None:
    assert default_lengths(seq, chunk) == lengths


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(64, batch=0), "batch is 0, must be 1 to 32"),
        (Options(64, batch=33), "batch is 33"),
        (Options(64, head="w8f16"), "go with batch above 1"),
        (Options(64, lengths_tokens=(32,)), "go with batch above 1"),
        (Options(64, batch=4, lengths_tokens=(64,)), "must be below seq"),
        (Options(64, batch=4, argmax_head=True), "logits and the best token per row"),
        (Options(64, batch=4, sample_head=True), "logits and the best token per row"),
        (Options(64, batch=4, head="int8"), "head is 'int8'"),
        (Options(64, "w4bf16", batch=4, head="w8f16"), "computes in another type"),
        (Options(64, share_tokens=32), "unshare-length 0 must be positive"),
        (Options(64, unshare_tokens=32), "share-length 0 and"),
        (Options(64, share_tokens=40, unshare_tokens=25), r"at most seq \(64\) together"),
        (Options(64, share_tokens=32, unshare_tokens=16, chunk_tokens=16), "takes the place"),
        (Options(64, share_tokens=32, unshare_tokens=16, argmax_head=True), "heads are logits"),
        (Options(64, share_tokens=16, unshare_tokens=32, prompt_names=True), "one embedding net"),
        (Options(64, prompt_names=True), "go with share-length"),
        (Options(64, mask_input=True), "go with share-length"),
        (Options(64, positions_tokens=63), r"at least seq \(64\)"),
    ],
)
def test_refuses_what_a_batched_build_cannot_have(options: Options, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        options.check()


def test_the_job_names_every_variant() -> None:
    line = "HF -o OUT --seq 512 --history --chunk 64 --batch 4 --lengths 128 --head w8f16"
    options = options_of(parse(line.split()))
    options.check()
    job = options.batched_job(Path("in"), Path("out"))
    assert job["variants"] == [[4, 512], [4, 128], [1, 512], [1, 128]]
    assert (job["checkpoint"], job["output"]) == ("in", "out")
    assert (job["seq"], job["chunk"], job["max_input"]) == (512, 64, 0)
    assert (job["quantize"], job["head"], job["group_size"]) == ("f16", "w8f16", 64)
    assert (job["history"], job["dynamic"]) == (True, False)


def test_the_job_names_a_shared_prefix() -> None:
    line = "HF -o OUT --seq 512 --share-length 256 --unshare-length 64 --positions 1024"
    options = options_of(parse(line.split()))
    options.check()
    job = options.batched_job(Path("in"), Path("out"))
    assert (job["seq"], job["max_input"], job["variants"]) == (1024, 256, [[1, 512]])
    assert job["share"] == {
        "share_tokens": 256,
        "unshare_tokens": 64,
        "prompt_names": False,
        "mask_input": False,
    }


@pytest.mark.parametrize(("quantize", "head"), [("w4bf16", "bf16"), ("w8f16", "f16")])
def test_an_unnamed_head_computes_in_the_type_of_the_states(quantize: str, head: str) -> None:
    options = Options(64, quantize, batch=2)
    assert options.batched_job(Path("in"), Path("out"))["head"] == head
