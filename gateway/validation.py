"""Range checks that need no model. Every text names the value and the limit.

The ranges are those of the comments in generation.proto.
"""

from __future__ import annotations

import math
from typing import Final

from gateway.request import (
    ChatPrompt,
    GenerationRequest,
    IdsPrompt,
    Message,
    Prompt,
    Role,
    SamplingChoice,
    StoppingChoice,
    TextPrompt,
)
from gateway.tool_validation import validate_calls, validate_tools
from tpuserve.errors import InvalidArgument

MAX_N: Final = 8
MAX_PROMPTS: Final = 64
MAX_STOPS: Final = 16
MAX_STOP_BYTES: Final = 256
MAX_STOP_TOKEN_IDS: Final = 64
MAX_LOGIT_BIAS: Final = 1024
MAX_TOP_LOGPROBS: Final = 20
MAX_PREFIX_KEY: Final = 256
UINT32_MAX: Final = 2**32 - 1


def validate(request: GenerationRequest) -> None:
    """Raise InvalidArgument for the first value that is out of range."""
    if not request.prompts:
        raise InvalidArgument("the prompt is missing", field="prompt")
    if len(request.prompts) > MAX_PROMPTS:
        raise InvalidArgument(
            f"{len(request.prompts)} prompts in one request, at most {MAX_PROMPTS}", field="prompt"
        )
    for prompt in request.prompts:
        validate_prompt(prompt)
    _validate_sampling(request.sampling)
    _validate_stopping(request.stopping)
    _within("n", request.n, 1, MAX_N)
    if request.top_logprobs is not None:
        _within("logprobs.top", request.top_logprobs, 0, MAX_TOP_LOGPROBS)
    if len(request.prefix_key) > MAX_PREFIX_KEY:
        raise InvalidArgument(
            f"prefix_key has {len(request.prefix_key)} characters, at most {MAX_PREFIX_KEY}",
            field="prefix_key",
        )


def validate_prompt(prompt: Prompt) -> None:
    if isinstance(prompt, ChatPrompt):
        validate_messages(prompt.messages)
        validate_calls(prompt.messages)
        validate_tools(prompt)
    elif isinstance(prompt, IdsPrompt):
        if not prompt.ids:
            raise InvalidArgument("the prompt has no token ids", field="prompt")
        for token_id in prompt.ids:
            if not 0 <= token_id <= UINT32_MAX:
                raise InvalidArgument(f"token id {token_id} is not a token", field="prompt")
    elif isinstance(prompt, TextPrompt) and not prompt.text:
        raise InvalidArgument("the prompt is empty", field="prompt")


def validate_messages(messages: tuple[Message, ...]) -> None:
    if not messages:
        raise InvalidArgument("messages is empty; at least one is needed", field="messages")
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        # A function may return nothing.
        empty = not (message.parts if message.role is Role.TOOL else any(message.parts))
        if empty and not message.tool_calls and message.role is not Role.ASSISTANT:
            raise InvalidArgument(
                f"{where} of role {message.role.value} has no content", field=f"{where}.content"
            )
        if message.tool_calls and message.role is not Role.ASSISTANT:
            raise InvalidArgument(
                f"{where} of role {message.role.value} has tool_calls; only an assistant has",
                field=f"{where}.tool_calls",
            )
        if message.tool_call_id is not None and message.role is not Role.TOOL:
            raise InvalidArgument(
                f"{where} of role {message.role.value} has a tool_call_id; only a tool answers one",
                field=f"{where}.tool_call_id",
            )


def _validate_sampling(sampling: SamplingChoice) -> None:
    _within("temperature", sampling.temperature, 0.0, 100.0)
    _within("top_k", sampling.top_k, 0, UINT32_MAX)
    _within("top_p", sampling.top_p, 0.0, 1.0, open_low=True)
    _within("min_p", sampling.min_p, 0.0, 1.0)
    _within("repetition_penalty", sampling.repetition_penalty, 0.0, 10.0, open_low=True)
    _within("presence_penalty", sampling.presence_penalty, -2.0, 2.0)
    _within("frequency_penalty", sampling.frequency_penalty, -2.0, 2.0)
    _within("penalty_window_tokens", sampling.penalty_window_tokens, 0, UINT32_MAX)
    if len(sampling.logit_bias) > MAX_LOGIT_BIAS:
        raise InvalidArgument(
            f"logit_bias has {len(sampling.logit_bias)} entries, at most {MAX_LOGIT_BIAS}",
            field="logit_bias",
        )
    for token_id, bias in sampling.logit_bias.items():
        _within(f"logit_bias[{token_id}]", bias, -100.0, 100.0)
    _within("seed", sampling.seed, -(2**63), 2**64 - 1)


def _validate_stopping(stopping: StoppingChoice) -> None:
    _within("max_tokens", stopping.max_tokens, 1, UINT32_MAX)
    _within("min_tokens", stopping.min_tokens, 0, UINT32_MAX)
    if len(stopping.stop) > MAX_STOPS:
        raise InvalidArgument(
            f"stop has {len(stopping.stop)} texts, at most {MAX_STOPS}", field="stop"
        )
    for i, stop in enumerate(stopping.stop):
        size = len(stop.encode())
        if not 0 < size <= MAX_STOP_BYTES:
            raise InvalidArgument(
                f"stop[{i}] has {size} bytes; it must have 1 to {MAX_STOP_BYTES}", field="stop"
            )
    if len(stopping.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        raise InvalidArgument(
            f"stop_token_ids has {len(stopping.stop_token_ids)} ids, at most {MAX_STOP_TOKEN_IDS}",
            field="stop_token_ids",
        )


def _within(
    name: str,
    value: float | None,
    low: float,
    high: float,
    *,
    open_low: bool = False,
) -> None:
    """None is fine; NaN is in no range."""
    if value is None:
        return
    inside = (low < value if open_low else low <= value) and value <= high
    if math.isnan(value) or not inside:
        bracket = "(" if open_low else "["
        raise InvalidArgument(
            f"{name} is {value}; it must be in {bracket}{low:g}, {high:g}]"
            if isinstance(low, float)
            else f"{name} is {value}; it must be in [{low}, {high}]",
            field=name,
        )
