"""Between the messages of tpuserve.v1 and the gateway's own values."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from typing import Final

from google.protobuf.message import Message as ProtoMessage
from google.protobuf.unknown_fields import UnknownFieldSet

from gateway.collect import Completion
from gateway.request import (
    ChatPrompt,
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    IdsPrompt,
    Message,
    Priority,
    Prompt,
    Role,
    SamplingChoice,
    Started,
    StoppingChoice,
    TextPrompt,
    Timings,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMode,
    Usage,
)
from tpuserve.errors import InvalidArgument
from tpuserve.rpc.output_format import from_wire as output_format_from_wire
from tpuserve.v1 import chat_pb2, generation_pb2

_ROLES: Final = {
    chat_pb2.ROLE_SYSTEM: Role.SYSTEM,
    chat_pb2.ROLE_USER: Role.USER,
    chat_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
    chat_pb2.ROLE_TOOL: Role.TOOL,
}
_PRIORITIES: Final = {
    generation_pb2.PRIORITY_UNSPECIFIED: Priority.DEFAULT,
    generation_pb2.PRIORITY_BULK: Priority.BULK,
    generation_pb2.PRIORITY_DEFAULT: Priority.DEFAULT,
    generation_pb2.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    generation_pb2.PRIORITY_SYSTEM: Priority.SYSTEM,
}
_TOOL_MODES: Final = {
    chat_pb2.ToolChoice.MODE_UNSPECIFIED: ToolMode.AUTO,
    chat_pb2.ToolChoice.MODE_AUTO: ToolMode.AUTO,
    chat_pb2.ToolChoice.MODE_NONE: ToolMode.NONE,
    chat_pb2.ToolChoice.MODE_REQUIRED: ToolMode.REQUIRED,
}
REASONS: Final = {
    FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
    FinishReason.STOP_SEQUENCE: generation_pb2.FINISH_REASON_STOP_SEQUENCE,
    FinishReason.TOOL_CALLS: generation_pb2.FINISH_REASON_TOOL_CALLS,
}


def check_known(message: ProtoMessage, path: str = "") -> None:
    """Raise InvalidArgument for a field that this version of the protocol does not have.

    Such a field is an option that a newer client asks for and would silently not get.
    """
    unknown = UnknownFieldSet(message)
    if len(unknown):
        where = path or message.DESCRIPTOR.full_name
        raise InvalidArgument(
            f"{where} has unknown field number {unknown[0].field_number}", field=path or None
        )
    for field, value in message.ListFields():
        kind = field.message_type
        if kind is None or kind.GetOptions().map_entry:
            continue
        name = f"{path}.{field.name}" if path else field.name
        if field.is_repeated:
            for i, item in enumerate(value):
                check_known(item, f"{name}[{i}]")
        else:
            check_known(value, name)


def chat_request(
    message: generation_pb2.ChatRequest, *, time_remaining_s: float | None
) -> GenerationRequest:
    prompt = ChatPrompt(
        _messages(message.messages),
        _tools(message.tools),
        tool_choice=_tool_choice(message),
        thinking=message.thinking if message.HasField("thinking") else None,
    )
    return _request(message, prompt, time_remaining_s)


def generate_request(
    message: generation_pb2.GenerateRequest, *, time_remaining_s: float | None
) -> GenerationRequest:
    kind = message.WhichOneof("prompt")
    if kind is None:
        raise InvalidArgument("the prompt is missing: set text or token_ids", field="prompt")
    prompt: Prompt = TextPrompt(message.text)
    if kind == "token_ids":
        prompt = IdsPrompt(tuple(message.token_ids.ids))
    return _request(message, prompt, time_remaining_s)


def tokenize_prompt(message: generation_pb2.TokenizeRequest) -> Prompt:
    kind = message.WhichOneof("input")
    if kind is None:
        raise InvalidArgument("the input is missing: set text or chat", field="input")
    if kind == "text":
        add = not message.HasField("add_special_tokens") or message.add_special_tokens
        return TextPrompt(message.text, add)
    if message.HasField("add_special_tokens"):
        raise InvalidArgument(
            "add_special_tokens goes with text only; a template has its own",
            field="add_special_tokens",
        )
    chat = message.chat
    add = not chat.HasField("add_generation_prompt") or chat.add_generation_prompt
    return ChatPrompt(_messages(chat.messages), _tools(chat.tools), add)


def deadline_s(time_remaining_s: float | None) -> float | None:
    """The `time.monotonic()` value at which a call's time is up."""
    return None if time_remaining_s is None else time.monotonic() + time_remaining_s


def _request(
    message: generation_pb2.ChatRequest | generation_pb2.GenerateRequest,
    prompt: Prompt,
    time_remaining_s: float | None,
) -> GenerationRequest:
    check_known(message)
    if message.priority not in _PRIORITIES:
        raise InvalidArgument(f"priority is {message.priority}, no known value", field="priority")
    now_s = time.monotonic()
    return GenerationRequest(
        id=uuid.uuid4().hex,
        arrival_s=now_s,
        model=message.model,
        prompts=(prompt,),
        sampling=_sampling(message.sampling),
        stopping=_stopping(message.stopping),
        top_logprobs=message.logprobs.top if message.HasField("logprobs") else None,
        priority=_PRIORITIES[message.priority],
        n=message.n if message.HasField("n") else 1,
        deadline_s=None if time_remaining_s is None else now_s + time_remaining_s,
        prefix_key=message.prefix_key,
        output_format=(
            output_format_from_wire(message.output_format)
            if message.HasField("output_format")
            else None
        ),
    )


def _sampling(said: generation_pb2.SamplingParams) -> SamplingChoice:
    has = said.HasField
    return SamplingChoice(
        temperature=said.temperature if has("temperature") else None,
        top_k=said.top_k if has("top_k") else None,
        top_p=said.top_p if has("top_p") else None,
        min_p=said.min_p if has("min_p") else None,
        repetition_penalty=said.repetition_penalty if has("repetition_penalty") else None,
        presence_penalty=said.presence_penalty if has("presence_penalty") else None,
        frequency_penalty=said.frequency_penalty if has("frequency_penalty") else None,
        penalty_window_tokens=said.penalty_window_tokens if has("penalty_window_tokens") else None,
        logit_bias=dict(said.logit_bias),
        seed=said.seed if has("seed") else None,
    )


def _stopping(said: generation_pb2.StoppingParams) -> StoppingChoice:
    return StoppingChoice(
        max_tokens=said.max_tokens if said.HasField("max_tokens") else None,
        min_tokens=said.min_tokens if said.HasField("min_tokens") else None,
        stop=tuple(said.stop),
        stop_token_ids=tuple(said.stop_token_ids),
        ignore_eos=said.ignore_eos,
    )


def _messages(messages: Iterable[chat_pb2.Message]) -> tuple[Message, ...]:
    return tuple(_message(m, f"messages[{i}]") for i, m in enumerate(messages))


def _message(message: chat_pb2.Message, where: str) -> Message:
    role = _ROLES.get(message.role)
    if role is None:
        raise InvalidArgument(
            f"{where}.role is {message.role}; it must be SYSTEM (1), USER (2), ASSISTANT (3) "
            "or TOOL (4)",
            field=f"{where}.role",
        )
    parts = tuple(
        part.image if part.WhichOneof("part") == "image" else part.text for part in message.content
    )
    return Message(
        role,
        parts,
        tuple(ToolCall(c.id, c.name, c.arguments_json) for c in message.tool_calls),
        message.tool_call_id if message.HasField("tool_call_id") else None,
        message.name if message.HasField("name") else None,
        message.reasoning,
    )


def _tools(tools: Iterable[chat_pb2.Tool]) -> tuple[Tool, ...]:
    return tuple(Tool(t.name, t.description, t.parameters_json) for t in tools)


def _tool_choice(message: generation_pb2.ChatRequest) -> ToolChoice:
    parallel = not message.HasField("parallel_tool_calls") or message.parallel_tool_calls
    choice = message.tool_choice
    if choice.WhichOneof("choice") == "function":
        return ToolChoice(function=choice.function, parallel=parallel)
    if choice.mode not in _TOOL_MODES:
        raise InvalidArgument(
            f"tool_choice.mode is {choice.mode}; it must be NONE (1), AUTO (2) or REQUIRED (3)",
            field="tool_choice",
        )
    return ToolChoice(_TOOL_MODES[choice.mode], parallel=parallel)


# Towards the client


def chunk(event: Event) -> generation_pb2.GenerateChunk:
    if isinstance(event, Delta):
        delta = generation_pb2.Delta(index=event.index, text=event.text, token_ids=event.token_ids)
        if event.logprobs:
            delta.logprobs.extend(map(logprob, event.logprobs))
        if event.reasoning:
            delta.reasoning = event.reasoning
        for call in event.tool_calls:
            delta.tool_calls.add(
                index=call.index, id=call.id, name=call.name, arguments_json=call.arguments_json
            )
        return generation_pb2.GenerateChunk(delta=delta)
    if isinstance(event, Started):
        return generation_pb2.GenerateChunk(
            started=generation_pb2.Started(
                request_id=event.request_id,
                model=event.model,
                prompt_tokens=event.prompt_tokens,
                cached_tokens=event.cached_tokens,
                seed=event.seed,
                device=event.device,
            )
        )
    return generation_pb2.GenerateChunk(finished=_finished(event))


def _finished(event: Finished) -> generation_pb2.Finished:
    return generation_pb2.Finished(
        index=event.index,
        reason=REASONS[event.reason],
        stop=event.stop,
        usage=usage(event.usage),
        timings=timings(event.timings),
    )


def completion(value: Completion) -> generation_pb2.Completion:
    return generation_pb2.Completion(
        index=value.index,
        text=value.text,
        token_ids=value.token_ids,
        logprobs=map(logprob, value.logprobs),
        reason=REASONS[value.reason],
        stop=value.stop,
        timings=timings(value.timings),
        reasoning=value.reasoning,
        tool_calls=[
            chat_pb2.ToolCall(id=call.id, name=call.name, arguments_json=call.arguments_json)
            for call in value.tool_calls
        ],
    )


def usage(value: Usage) -> generation_pb2.Usage:
    return generation_pb2.Usage(
        prompt_tokens=value.prompt_tokens,
        completion_tokens=value.completion_tokens,
        cached_tokens=value.cached_tokens,
    )


def timings(value: Timings) -> generation_pb2.Timings:
    return generation_pb2.Timings(
        queue_us=value.queue_us,
        prefill_us=value.prefill_us,
        decode_us=value.decode_us,
        ttft_us=value.ttft_us,
    )


def logprob(value: TokenLogprob) -> generation_pb2.TokenLogprob:
    return generation_pb2.TokenLogprob(
        token_id=value.token_id,
        logprob=value.logprob,
        token=value.token,
        top=[
            generation_pb2.TokenLogprob.Candidate(
                token_id=c.token_id, logprob=c.logprob, token=c.token
            )
            for c in value.top
        ],
    )
