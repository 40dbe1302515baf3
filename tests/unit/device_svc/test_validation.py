"""Each refusal names the value and the limit."""

from __future__ import annotations

import dataclasses
import math

import pytest

from device_svc import validation
from device_svc.engine_api import ModelShape, Sampling
from device_svc.request import Refused, RejectReason

SHAPE = ModelShape(
    context_length=100,
    max_prompt_length=80,
    prefill_chunk_tokens=16,
    vocab_size=1000,
    argmax=False,
    features=("logits",),
)
ARGMAX = dataclasses.replace(SHAPE, argmax=True)


@pytest.mark.parametrize(
    ("lengths", "texts"),
    [
        ({"prompt_tokens": 0}, ["empty"]),
        ({"prompt_tokens": 81}, ["81", "80"]),
        ({"max_tokens": 0}, ["max_tokens is 0", "1"]),
        ({"resume_tokens": 5, "max_tokens": 5}, ["5 resume_ids", "max_tokens 5"]),
        ({"resume_tokens": 90, "max_tokens": 99}, ["10 prompt_ids", "90 resume_ids", "100"]),
    ],
)
def test_lengths(lengths: dict[str, int], texts: list[str]) -> None:
    good = {"prompt_tokens": 10, "resume_tokens": 0, "max_tokens": 5}
    validation.check_lengths(**good, shape=SHAPE)
    with pytest.raises(Refused) as caught:
        validation.check_lengths(**{**good, **lengths}, shape=SHAPE)
    assert caught.value.reason is RejectReason.INVALID
    assert all(text in caught.value.detail for text in texts), caught.value.detail


def test_max_tokens_beyond_the_context_is_for_the_scheduler_to_end() -> None:
    validation.check_lengths(prompt_tokens=80, resume_tokens=0, max_tokens=10**6, shape=SHAPE)


def test_ids() -> None:
    ids = validation.check_ids("prompt_ids", [0, 999], SHAPE)
    assert (ids.dtype.name, ids.tolist()) == ("int32", [0, 999])
    with pytest.raises(Refused, match=r"prompt_ids\[1\] is 4294967295, the vocabulary has 1000"):
        validation.check_ids("prompt_ids", [1, 2**32 - 1], SHAPE)


@pytest.mark.parametrize(
    ("sampling", "name", "limit"),
    [
        (Sampling(temperature=-0.1), "temperature", "[0, 100]"),
        (Sampling(temperature=math.nan), "temperature", "[0, 100]"),
        (Sampling(temperature=math.inf), "temperature", "[0, 100]"),
        (Sampling(top_p=0.0), "top_p", "(0, 1]"),
        (Sampling(top_p=1.1), "top_p", "(0, 1]"),
        (Sampling(min_p=1.5), "min_p", "[0, 1]"),
        (Sampling(repetition_penalty=0.0), "repetition_penalty", "(0, 10]"),
        (Sampling(presence_penalty=-2.5), "presence_penalty", "[-2, 2]"),
        (Sampling(frequency_penalty=2.5), "frequency_penalty", "[-2, 2]"),
    ],
)
def test_sampling_ranges(sampling: Sampling, name: str, limit: str) -> None:
    with pytest.raises(Refused) as caught:
        validation.check_sampling(sampling, SHAPE)
    assert caught.value.reason is RejectReason.INVALID
    assert f"{name} is {getattr(sampling, name)}" in caught.value.detail
    assert limit in caught.value.detail


@pytest.mark.parametrize(
    ("sampling", "text"),
    [
        (Sampling(logprobs=21), "logprobs is 21, at most 20"),
        (Sampling(logit_bias={1000: 1.0}), r"logit_bias\[0\] is 1000"),
        (Sampling(logit_bias={7: 100.5}), r"logit_bias\[7\] is 100.5, must be in \[-100, 100\]"),
    ],
)
def test_other_sampling_limits(sampling: Sampling, text: str) -> None:
    with pytest.raises(Refused, match=text):
        validation.check_sampling(sampling, SHAPE)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0),
        Sampling(temperature=0.0, logprobs=0),
        Sampling(temperature=0.0, repetition_penalty=1.1),
        Sampling(temperature=0.0, logit_bias={1: 1.0}),
        Sampling(temperature=0.0, min_tokens=3, banned_ids=(2,)),
    ],
)
def test_an_argmax_head_has_nothing_to_sample_from(sampling: Sampling) -> None:
    validation.check_sampling(sampling, SHAPE)
    with pytest.raises(Refused) as caught:
        validation.check_sampling(sampling, ARGMAX)
    assert caught.value.reason is RejectReason.UNSUPPORTED


def test_greedy_requests_run_on_an_argmax_head() -> None:
    validation.check_sampling(Sampling(temperature=0.0), ARGMAX)
    validation.check_sampling(Sampling(temperature=0.7, top_k=1), ARGMAX)


def test_identity() -> None:
    validation.check_identity("ab", "ab")
    with pytest.raises(Refused, match=r"cd.*ab") as caught:
        validation.check_identity("cd", "ab")
    assert caught.value.reason is RejectReason.WRONG_MODEL
    with pytest.raises(Refused, match=r"\(none\)"):
        validation.check_identity("", "ab")


@pytest.mark.parametrize("length", [0, 257])
def test_request_ids(length: int) -> None:
    validation.check_request_id("a" * 256)
    with pytest.raises(Refused, match=f"request_id has {length} characters.* 1 to 256"):
        validation.check_request_id("a" * length)
