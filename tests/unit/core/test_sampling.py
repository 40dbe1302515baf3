"""The sampler as Python sees it; its arithmetic is tested in C++."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from device_svc._core import Sampler, SamplingParams, sample

NO_PROMPT = np.zeros(0, np.int32)


def rows(*values: list[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def test_one_token_for_each_row() -> None:
    samplers = [Sampler(SamplingParams(temperature=0), 3, NO_PROMPT) for _ in range(2)]
    drawn = sample(rows([0, 2, 1], [3, 2, 1]), samplers)
    assert [one.token for one in drawn] == [1, 0]
    assert [one.logprob for one in drawn] == [None, None]
    assert [one.top for one in drawn] == [[], []]
    assert [sampler.generated for sampler in samplers] == [1, 1]


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    logits = np.random.default_rng(0).normal(size=(8, 50)).astype(np.float32)
    params = [SamplingParams(seed=seed, top_p=0.9) for seed in range(8)]
    alone = [
        sample(logits[i : i + 1], [Sampler(params[i], 50, NO_PROMPT)])[0].token for i in range(8)
    ]
    together = sample(logits, [Sampler(p, 50, NO_PROMPT) for p in params])
    assert [one.token for one in together] == alone


def test_logprobs_are_those_of_the_softmax() -> None:
    row = rows([1.0, 2.0, 4.0])
    [drawn] = sample(row, [Sampler(SamplingParams(temperature=0, logprobs=2), 3, NO_PROMPT)])
    expected = row[0] - math.log(np.exp(row[0].astype(np.float64)).sum())
    assert drawn.logprob == pytest.approx(expected[2])
    assert [token for token, _ in drawn.top] == [2, 1]
    assert [logprob for _, logprob in drawn.top] == pytest.approx([expected[2], expected[1]])


def test_one_params_object_serves_many_requests() -> None:
    params = SamplingParams(logit_bias={1: 100.0}, seed=2**64 - 1)
    for _ in range(3):
        [drawn] = sample(rows([0, 0, 0]), [Sampler(params, 3, NO_PROMPT)])
        assert drawn.token == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"temperature": math.nan}, "temperature = nan: expected a finite number >= 0"),
        ({"temperature": -0.1}, "temperature = -0.1: expected a finite number >= 0"),
        ({"top_p": 0.0}, "top_p = 0: expected more than 0 and at most 1"),
        ({"logprobs": 21}, "logprobs = 21: expected -1 (none) to 20"),
        ({"seed": -1}, "seed = -1: expected 0 to 18446744073709551615"),
        ({"seed": 2**64}, "seed = 18446744073709551616: expected 0 to"),
    ],
)
def test_values_out_of_range_name_value_and_limit(arguments: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match="expected") as raised:
        SamplingParams(**arguments)  # type: ignore[arg-type]
    assert text in str(raised.value)


def test_a_row_with_nan_says_so_and_the_others_are_drawn() -> None:
    samplers = [Sampler(SamplingParams(temperature=0), 2, NO_PROMPT) for _ in range(4)]
    infinite = [math.inf, 1]
    drawn = sample(rows([0, 1], [math.nan, 1], infinite, [1, 0]), samplers)
    assert [sampled.token for sampled in drawn] == [1, -1, -1, 0]
    assert [sampler.generated for sampler in samplers] == [1, 0, 0, 1]
    assert [sampled.error for sampled in drawn] == [
        "",
        "logits hold 1 NaN of 2: the chip produced garbage",
        "the highest logit is inf: the chip produced garbage",
        "",
    ]


def test_shapes_and_types_that_do_not_fit_are_refused() -> None:
    sampler = Sampler(SamplingParams(), 2, NO_PROMPT)
    with pytest.raises(ValueError, match="one row for each of 1 samplers, not 2"):
        sample(rows([0, 1], [0, 1]), [sampler])
    with pytest.raises(ValueError, match="rows of 2, not 3"):
        sample(rows([0, 1, 2]), [sampler])
    with pytest.raises(ValueError, match="expected 2 dimensions, not 1"):
        sample(rows([0, 1])[0], [sampler])
    with pytest.raises(ValueError, match="expected dtype float32, not float64"):
        sample(np.zeros((1, 2)), [sampler])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="C-contiguous"):
        sample(np.zeros((1, 4), np.float32)[:, ::2], [sampler])
    with pytest.raises(ValueError, match="prompt: expected dtype int32, not int64"):
        Sampler(SamplingParams(), 2, np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="prompt token 2: expected 0 to 1"):
        Sampler(SamplingParams(), 2, np.array([2], np.int32))


def mask_of(*tokens: int, vocab: int) -> NDArray[np.uint32]:
    words = np.zeros((vocab + 31) // 32, np.uint32)
    for token in tokens:
        words[token // 32] |= np.uint32(1 << token % 32)
    return words


def test_masks_go_with_rows() -> None:
    logits = np.zeros((3, 40), np.float32)
    samplers = [Sampler(SamplingParams(temperature=0), 40, NO_PROMPT) for _ in range(3)]
    masks = [mask_of(39, vocab=40), None, mask_of(vocab=40)]
    assert [one.token for one in sample(logits, samplers, masks)] == [39, 0, -1]
    assert [sampler.generated for sampler in samplers] == [1, 1, 0]


@pytest.mark.parametrize(
    ("masks", "text"),
    [
        ([None, None], "masks: expected one for each of 1 samplers, not 2"),
        ([mask_of(1, vocab=33)], "mask: expected 1 words, not 2"),
        ([np.zeros(1, np.int32)], "mask: expected dtype uint32, not int32"),
    ],
)
def test_a_mask_of_another_shape_is_refused(
    masks: list[NDArray[np.uint32] | None], text: str
) -> None:
    sampler = Sampler(SamplingParams(), 32, NO_PROMPT)
    with pytest.raises(ValueError, match=text):
        sample(np.zeros((1, 32), np.float32), [sampler], masks)
