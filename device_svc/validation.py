"""What a submit may ask for. Every refusal names the value and the limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from device_svc.engine_api import ModelShape, Sampling
from device_svc.request import Refused, RejectReason

_MAX_LOGPROBS: Final = 20
_MAX_REQUEST_ID: Final = 256
_MAX_PREFIX_KEY: Final = 256
_MAX_BIAS: Final = 100.0
# Name, lowest, whether the lowest itself is allowed, highest: as tpuserve.v1.SamplingParams says.
_RANGES: Final = (
    ("temperature", 0.0, True, 100.0),
    ("top_p", 0.0, False, 1.0),
    ("min_p", 0.0, True, 1.0),
    ("repetition_penalty", 0.0, False, 10.0),
    ("presence_penalty", -2.0, True, 2.0),
    ("frequency_penalty", -2.0, True, 2.0),
)


def check_identity(asked_sha256: str, own_sha256: str) -> None:
    if asked_sha256 != own_sha256:
        raise Refused(
            RejectReason.WRONG_MODEL,
            f"the request is for bmodel {asked_sha256 or '(none)'}, this device runs {own_sha256}",
        )


def check_request_id(request_id: str) -> None:
    if not 1 <= len(request_id) <= _MAX_REQUEST_ID:
        raise _invalid(
            f"request_id has {len(request_id)} characters, must have 1 to {_MAX_REQUEST_ID}"
        )


def check_prefix_key(key: str) -> str | None:
    """An empty key is none."""
    if len(key) > _MAX_PREFIX_KEY:
        raise _invalid(f"prefix_key has {len(key)} characters, at most {_MAX_PREFIX_KEY} are taken")
    return key or None


def check_ids(
    name: str, ids: Sequence[int], shape: ModelShape, *, image_token: int | None = None
) -> NDArray[np.int32]:
    """The ids as int32 [n]. The runtime takes an unknown id for a row of zeros, without error.

    image_token: an id that is allowed although it may lie above the vocabulary.
    """
    array = np.array(ids, dtype=np.int64)
    limit = shape.vocab_size or np.iinfo(np.int32).max
    unknown = array >= limit
    if image_token is not None:
        unknown &= array != image_token
    outside = np.flatnonzero(unknown)
    if len(outside):
        index = int(outside[0])
        raise _invalid(f"{name}[{index}] is {array[index]}, the vocabulary has {limit} ids")
    return array.astype(np.int32)


def check_lengths(
    *, prompt_tokens: int, resume_tokens: int, max_tokens: int, shape: ModelShape
) -> None:
    if prompt_tokens < 1:
        raise _invalid("prompt_ids is empty")
    if prompt_tokens > shape.max_prompt_length:
        raise _invalid(
            f"the prompt has {prompt_tokens} tokens, the model takes {shape.max_prompt_length}"
        )
    if max_tokens < 1:
        raise _invalid("max_tokens is 0, must be at least 1")
    if resume_tokens >= max_tokens:
        raise _invalid(f"{resume_tokens} resume_ids leave nothing of max_tokens {max_tokens}")
    if prompt_tokens + resume_tokens >= shape.context_length:
        raise _invalid(
            f"{prompt_tokens} prompt_ids and {resume_tokens} resume_ids fill "
            f"the context of {shape.context_length} tokens"
        )


def check_sampling(sampling: Sampling, shape: ModelShape) -> None:
    for name, lowest, inclusive, highest in _RANGES:
        value = getattr(sampling, name)
        # Written so that NaN fails.
        if not (lowest <= value <= highest) or (value == lowest and not inclusive):
            bracket = "[" if inclusive else "("
            raise _invalid(f"{name} is {value}, must be in {bracket}{lowest:g}, {highest:g}]")
    if sampling.logprobs is not None and sampling.logprobs > _MAX_LOGPROBS:
        raise _invalid(f"logprobs is {sampling.logprobs}, at most {_MAX_LOGPROBS} are given")
    check_ids("logit_bias", tuple(sampling.logit_bias), shape)
    for token, bias in sampling.logit_bias.items():
        if not -_MAX_BIAS <= bias <= _MAX_BIAS:
            raise _invalid(f"logit_bias[{token}] is {bias}, must be in [-100, 100]")
    if shape.argmax and not (sampling.greedy and sampling.logprobs is None):
        raise Refused(
            RejectReason.UNSUPPORTED,
            "the bmodel's head returns the most likely token only: temperature must be 0, "
            "without penalties, logit_bias, min_tokens and logprobs",
        )


def _invalid(detail: str) -> Refused:
    return Refused(RejectReason.INVALID, detail)
