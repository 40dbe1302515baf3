"""From request bodies to the gateway's own values."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.http_front.formats import output_format
from gateway.http_front.images import IMAGE_PARTS, from_data_url, image_url
from gateway.http_front.openai_types import (
    ChatBody,
    ChatMessageBody,
    ChatTemplateKwargs,
    CommonBody,
    CompletionBody,
    LegacyBody,
    NamedTool,
    TextPart,
    TokenizeBody,
    ToolBody,
)
from gateway.request import (
    ChatPrompt,
    GenerationRequest,
    IdsPrompt,
    Message,
    Priority,
    Prompt,
    Role,
    SamplingChoice,
    StoppingChoice,
    TextPrompt,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMode,
)
from tpuserve.errors import FeatureMissing, InvalidArgument

_ROLES: Final = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL,
}


def chat(
    body: ChatBody, *, deadline_s: float | None, fetched: Mapping[str, bytes]
) -> GenerationRequest:
    _refuse_chat_features(body)
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidArgument("top_logprobs needs logprobs: true", field="top_logprobs")
    if (
        body.max_tokens is not None
        and body.max_completion_tokens is not None
        and body.max_tokens != body.max_completion_tokens
    ):
        raise InvalidArgument(
            f"max_tokens is {body.max_tokens} and max_completion_tokens "
            f"{body.max_completion_tokens}; give one of them",
            field="max_tokens",
        )
    prompt = ChatPrompt(
        messages(body.messages, fetched),
        _tools(body.tools),
        tool_choice=_tool_choice(body),
        thinking=_thinking(body.chat_template_kwargs),
    )
    return _request(
        body,
        (prompt,),
        id_prefix="chatcmpl-",
        max_tokens=body.max_tokens
        if body.max_completion_tokens is None
        else body.max_completion_tokens,
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        deadline_s=deadline_s,
    )


def completion(body: CompletionBody, *, deadline_s: float | None) -> GenerationRequest:
    if body.best_of not in (None, body.n or 1):
        raise FeatureMissing(f"best_of is {body.best_of}; only the value of n is supported")
    if body.suffix:
        raise FeatureMissing("suffix is not supported")
    if body.echo and body.logprobs is not None:
        raise FeatureMissing("echo with logprobs needs prompt logprobs, which are not supported")
    return _request(
        body,
        prompts(body.prompt),
        id_prefix="cmpl-",
        max_tokens=body.max_tokens,
        top_logprobs=body.logprobs,
        deadline_s=deadline_s,
    )


def legacy(body: LegacyBody, *, deadline_s: float | None) -> GenerationRequest:
    if not body.question:
        raise InvalidArgument("question is empty", field="question")
    turns = [
        Message(Role.ASSISTANT if i % 2 else Role.USER, (text,))
        for i, text in enumerate(body.history)
    ]
    turns.append(Message(Role.USER, (body.question,)))
    return GenerationRequest(
        id=uuid.uuid4().hex,
        arrival_s=time.monotonic(),
        model="",
        # The old demos know no reasoning and no calls.
        prompts=(ChatPrompt(tuple(turns), raw_answer=True),),
        deadline_s=deadline_s,
    )


def tokenize(body: TokenizeBody, *, fetched: Mapping[str, bytes]) -> Prompt:
    if (body.prompt is None) == (body.messages is None):
        raise InvalidArgument("give either prompt or messages", field="prompt")
    if body.messages is None:
        return TextPrompt(body.prompt or "", body.add_special_tokens is not False)
    return ChatPrompt(
        messages(body.messages, fetched),
        _tools(body.tools),
        body.add_generation_prompt is not False,
    )


def prompts(prompt: str | list[Any]) -> tuple[Prompt, ...]:
    """A text, a list of texts, a list of ids, or a list of lists of ids."""
    if isinstance(prompt, str):
        return (TextPrompt(prompt),)
    if _are_ids(prompt):
        return (IdsPrompt(tuple(prompt)),)
    result: list[Prompt] = []
    for i, item in enumerate(prompt):
        if isinstance(item, str):
            result.append(TextPrompt(item))
        elif isinstance(item, list) and _are_ids(item):
            result.append(IdsPrompt(tuple(item)))
        else:
            raise InvalidArgument(
                f"prompt[{i}] must be a text, or all of prompt token ids", field="prompt"
            )
    return tuple(result)


def messages(bodies: list[ChatMessageBody], fetched: Mapping[str, bytes]) -> tuple[Message, ...]:
    """`fetched`: the images of addresses that are no data URLs."""
    return tuple(_message(body, f"messages[{i}]", fetched) for i, body in enumerate(bodies))


def _are_ids(items: list[Any]) -> bool:
    return bool(items) and all(type(item) is int for item in items)


def _request(
    body: CommonBody,
    prompts: tuple[Prompt, ...],
    *,
    id_prefix: str,
    max_tokens: int | None,
    top_logprobs: int | None,
    deadline_s: float | None,
) -> GenerationRequest:
    if body.stream_options is not None and not body.stream:
        raise InvalidArgument("stream_options needs stream: true", field="stream_options")
    return GenerationRequest(
        id=id_prefix + uuid.uuid4().hex,
        arrival_s=time.monotonic(),
        model=body.model,
        prompts=prompts,
        sampling=SamplingChoice(
            temperature=body.temperature,
            # vLLM's word for all.
            top_k=0 if body.top_k == -1 else body.top_k,
            top_p=body.top_p,
            min_p=body.min_p,
            repetition_penalty=body.repetition_penalty,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            logit_bias=_logit_bias(body.logit_bias or {}),
            seed=body.seed,
        ),
        stopping=StoppingChoice(
            max_tokens=max_tokens,
            min_tokens=body.min_tokens,
            stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
            stop_token_ids=tuple(body.stop_token_ids or ()),
            ignore_eos=bool(body.ignore_eos),
        ),
        top_logprobs=top_logprobs,
        priority=_priority(body.priority),
        n=1 if body.n is None else body.n,
        deadline_s=deadline_s,
        prefix_key=body.prompt_cache_key or "",
        output_format=output_format(body),
    )


def _priority(name: str | None) -> Priority:
    if name is None:
        return Priority.DEFAULT
    try:
        return Priority[name.upper()]
    except KeyError:
        known = ", ".join(p.name.lower() for p in Priority)
        raise InvalidArgument(
            f"priority is {name!r}; it must be one of {known}", field="priority"
        ) from None


def _logit_bias(said: dict[str, float]) -> dict[int, float]:
    for key in said:
        if not (key.isascii() and key.isdecimal()):
            raise InvalidArgument(
                f"logit_bias has the key {key!r}, which is no token id", field="logit_bias"
            )
    return {int(key): bias for key, bias in said.items()}


def _message(body: ChatMessageBody, where: str, fetched: Mapping[str, bytes]) -> Message:
    role = _ROLES.get(body.role)
    if role is None:
        raise InvalidArgument(
            f"{where}.role is {body.role!r}; it must be one of {', '.join(_ROLES)}",
            field=f"{where}.role",
        )
    if body.audio is not None:
        raise FeatureMissing(f"{where}.audio: the model takes text only")
    if body.function_call is not None:
        raise FeatureMissing(f"{where}.function_call is not supported; use tool_calls")
    parts: tuple[str | bytes, ...]
    if isinstance(body.content, list):
        parts = tuple(
            _part(part, f"{where}.content[{i}]", fetched) for i, part in enumerate(body.content)
        )
    else:
        parts = () if body.content is None else (body.content,)
    return Message(
        role,
        parts,
        tuple(ToolCall(c.id, c.function.name, c.function.arguments) for c in body.tool_calls or ()),
        body.tool_call_id,
        body.name,
        body.reasoning_content or "",
    )


def _part(part: TextPart, where: str, fetched: Mapping[str, bytes]) -> str | bytes:
    if part.type in IMAGE_PARTS:
        url = image_url(part, where)
        return fetched[url] if url in fetched else from_data_url(url, where)
    return _text(part, where)


def _text(part: TextPart, where: str) -> str:
    if part.type in ("text", "input_text") and part.text is not None:
        return part.text
    if part.type == "text":
        raise InvalidArgument(f"{where} has no text", field=where)
    if part.type == "refusal" and part.refusal is not None:
        return part.refusal
    if part.type in ("input_audio", "file"):
        raise FeatureMissing(f"{where} is of type {part.type}; texts and images are taken")
    raise InvalidArgument(f"{where}.type is {part.type!r}, not a known type", field=where)


def _tools(bodies: list[ToolBody] | None) -> tuple[Tool, ...]:
    for i, body in enumerate(bodies or ()):
        if body.type != "function":
            raise FeatureMissing(f"tools[{i}] is of type {body.type!r}; only functions are known")
    return tuple(
        Tool(
            body.function.name,
            body.function.description or "",
            msgspec.json.encode(body.function.parameters or {}).decode(),
        )
        for body in bodies or ()
    )


def _tool_choice(body: ChatBody) -> ToolChoice:
    choice = body.tool_choice
    parallel = body.parallel_tool_calls is not False
    if isinstance(choice, NamedTool):
        if choice.type != "function":
            raise FeatureMissing(f"tool_choice of type {choice.type!r} is not supported")
        return ToolChoice(function=choice.function.name, parallel=parallel)
    try:
        return ToolChoice(ToolMode(choice or "auto"), parallel=parallel)
    except ValueError:
        known = ", ".join(mode.value for mode in ToolMode)
        raise InvalidArgument(
            f"tool_choice is {choice!r}; it must be one of {known} or a function",
            field="tool_choice",
        ) from None


def _thinking(kwargs: ChatTemplateKwargs | None) -> bool | None:
    if kwargs is None:
        return None
    if None not in (kwargs.enable_thinking, kwargs.thinking) and (
        kwargs.enable_thinking != kwargs.thinking
    ):
        raise InvalidArgument(
            "chat_template_kwargs has both enable_thinking and thinking, and they differ",
            field="chat_template_kwargs",
        )
    return kwargs.thinking if kwargs.enable_thinking is None else kwargs.enable_thinking


def _refuse_chat_features(body: ChatBody) -> None:
    unsupported = {
        "modalities other than text": body.modalities not in (None, ["text"]),
        "audio": body.audio is not None,
        "prediction": body.prediction is not None,
        "functions (use tools)": bool(body.functions),
        "function_call (use tool_choice)": body.function_call not in (None, "none", "auto"),
        "web_search_options": body.web_search_options is not None,
        "reasoning_effort": body.reasoning_effort not in (None, "none"),
        "verbosity": body.verbosity not in (None, "medium"),
        "store": bool(body.store),
    }
    for name, asked in unsupported.items():
        if asked:
            raise FeatureMissing(f"{name} is not supported", field=name.partition(" ")[0])
