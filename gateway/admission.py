"""From a request and its encoded prompt to what the device is told, or a refusal.

Everything here happens before the request takes a place in the queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

from gateway.answer import AnswerWish, wish
from gateway.facts import DeviceFacts, SamplingDefaults, TokenizerFacts
from gateway.output_formats import PlannedFormat
from gateway.request import (
    Encoded,
    GenerationRequest,
    PlacedImage,
    Priority,
    Prompt,
    Sampling,
    SamplingChoice,
)
from tpuserve.errors import FeatureMissing, InvalidArgument

# No vocabulary in use has longer tokens; a text past this many bytes per token of context cannot
# fit, and encoding it only to learn that would hold the tokenizer up.
_MAX_TOKEN_BYTES: Final = 256

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Plan:
    """One completion as it will be submitted, apart from its seed's draw.

    `stop_ids` are all ids that end it, `eos_ids` those of them that are the model's own. Ids at or
    above `vocab_size` come from padded rows of the bmodel's head: they count and have no text.
    `answer` is how its text is read; None leaves it as it is. `images` in the order of positions.
    """

    model: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    min_tokens: int
    stop_ids: tuple[int, ...]
    eos_ids: frozenset[int]
    stop: tuple[str, ...]
    top_logprobs: int | None
    priority: Priority
    vocab_size: int
    deadline_s: float | None
    prefix_key: str
    answer: AnswerWish | None
    output_format: PlannedFormat | None = None
    images: tuple[PlacedImage, ...] = ()


def check_text_size(text_bytes: int, device: DeviceFacts) -> None:
    """Refuse a text that cannot fit the context, without encoding it. Raises InvalidArgument."""
    limit_bytes = device.context_length * _MAX_TOKEN_BYTES
    if text_bytes > limit_bytes:
        raise InvalidArgument(
            f"the prompt has {text_bytes} bytes and cannot fit the context of "
            f"{device.context_length} tokens; at most {limit_bytes} bytes are tried",
            field="prompt",
        )


def plan(
    request: GenerationRequest,
    encoded: Encoded,
    *,
    prompt: Prompt,
    seed: int,
    device: DeviceFacts,
    tokenizer: TokenizerFacts,
    output_format: PlannedFormat | None = None,
) -> Plan:
    """Apply the model's limits and defaults to one prompt, which the tokenizer has encoded.

    Raises InvalidArgument for lengths and ids beyond the model, FeatureMissing for what its head
    cannot do.
    """
    prompt_ids = encoded.ids
    _check_ids(prompt_ids, "prompt", tokenizer.vocab_size)
    stopping = request.stopping
    _check_ids(stopping.stop_token_ids, "stop_token_ids", tokenizer.vocab_size)
    _check_ids(tuple(request.sampling.logit_bias), "logit_bias", tokenizer.vocab_size)
    if device.argmax_only:
        _check_argmax(request, formatted=output_format is not None)
    max_tokens = _max_tokens(len(prompt_ids), stopping.max_tokens, device)
    min_tokens = stopping.min_tokens or 0
    if min_tokens > max_tokens:
        raise InvalidArgument(
            f"min_tokens is {min_tokens}, more than max_tokens, which is {max_tokens}",
            field="min_tokens",
        )
    eos_ids = () if stopping.ignore_eos else tokenizer.eos_ids
    return Plan(
        model=device.model,
        prompt_ids=prompt_ids,
        sampling=_sampling(request.sampling, tokenizer.defaults, device, seed=seed),
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        stop_ids=tuple(dict.fromkeys((*eos_ids, *stopping.stop_token_ids))),
        eos_ids=frozenset(eos_ids),
        stop=stopping.stop,
        top_logprobs=request.top_logprobs,
        priority=request.priority,
        vocab_size=tokenizer.vocab_size,
        deadline_s=request.deadline_s,
        prefix_key=request.prefix_key,
        # The text of a format is all the format's.
        answer=wish(prompt) if request.output_format is None else None,
        output_format=output_format,
        images=encoded.images,
    )


def _max_tokens(prompt_tokens: int, asked: int | None, device: DeviceFacts) -> int:
    if prompt_tokens > device.max_prompt_length:
        raise InvalidArgument(
            f"the prompt has {prompt_tokens} tokens; model {device.model} takes prompts of at most "
            f"{device.max_prompt_length} tokens",
            field="prompt",
        )
    room = device.context_length - prompt_tokens
    if room < 1:
        raise InvalidArgument(
            f"the prompt has {prompt_tokens} tokens and leaves no room in the context of "
            f"{device.context_length} tokens",
            field="prompt",
        )
    if asked is None:
        return room
    if asked > room:
        raise InvalidArgument(
            f"max_tokens is {asked}, beyond the context: the prompt has {prompt_tokens} tokens and "
            f"the context {device.context_length}, so at most {room} can follow",
            field="max_tokens",
        )
    return asked


def _check_ids(ids: tuple[int, ...], name: str, vocab_size: int) -> None:
    if ids and max(ids) >= vocab_size:
        raise InvalidArgument(
            f"{name} has token id {max(ids)}; the vocabulary has {vocab_size} tokens", field=name
        )


def _check_argmax(request: GenerationRequest, *, formatted: bool) -> None:
    sampling = request.sampling
    asked = {
        "temperature": bool(sampling.temperature),
        "repetition_penalty": sampling.repetition_penalty not in (None, 1.0),
        "presence_penalty": bool(sampling.presence_penalty),
        "frequency_penalty": bool(sampling.frequency_penalty),
        "logit_bias": bool(sampling.logit_bias),
        "logprobs": request.top_logprobs is not None,
        "min_tokens": bool(request.stopping.min_tokens),
        "tool_choice" if request.output_format is None else "output_format": formatted,
    }
    for name, used in asked.items():
        if used:
            raise FeatureMissing(
                f"{name} needs logits; this model's head yields the best token only", field=name
            )


def _sampling(
    choice: SamplingChoice, defaults: SamplingDefaults, device: DeviceFacts, *, seed: int
) -> Sampling:
    greedy = device.argmax_only or (choice.temperature is None and defaults.do_sample is False)
    return Sampling(
        temperature=0.0 if greedy else _first(choice.temperature, defaults.temperature, 1.0),
        top_k=_first(choice.top_k, defaults.top_k, 0),
        top_p=_first(choice.top_p, defaults.top_p, 1.0),
        min_p=_first(choice.min_p, defaults.min_p, 0.0),
        repetition_penalty=1.0
        if device.argmax_only
        else _first(choice.repetition_penalty, defaults.repetition_penalty, 1.0),
        presence_penalty=choice.presence_penalty or 0.0,
        frequency_penalty=choice.frequency_penalty or 0.0,
        penalty_window_tokens=choice.penalty_window_tokens or 0,
        logit_bias=choice.logit_bias,
        seed=seed,
    )


def _first(asked: _T | None, default: _T | None, fallback: _T) -> _T:
    if asked is not None:
        return asked
    return fallback if default is None else default
