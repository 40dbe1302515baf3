"""Between the client's values and the messages on the wire."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, cast

import grpc
import grpc.aio

from tpuserve import errors
from tpuserve.client import types
from tpuserve.output_format import OutputFormat
from tpuserve.rpc.output_format import to_wire
from tpuserve.v1 import chat_pb2, generation_pb2, output_pb2

Prompt = str | Sequence[int]

_ROLES: Final = {
    "system": chat_pb2.ROLE_SYSTEM,
    "user": chat_pb2.ROLE_USER,
    "assistant": chat_pb2.ROLE_ASSISTANT,
    "tool": chat_pb2.ROLE_TOOL,
}
_PRIORITIES: Final = {
    types.Priority.BULK: generation_pb2.PRIORITY_BULK,
    types.Priority.DEFAULT: generation_pb2.PRIORITY_DEFAULT,
    types.Priority.INTERACTIVE: generation_pb2.PRIORITY_INTERACTIVE,
    types.Priority.SYSTEM: generation_pb2.PRIORITY_SYSTEM,
}
_TOOL_MODES: Final = {
    types.ToolMode.NONE: chat_pb2.ToolChoice.MODE_NONE,
    types.ToolMode.AUTO: chat_pb2.ToolChoice.MODE_AUTO,
    types.ToolMode.REQUIRED: chat_pb2.ToolChoice.MODE_REQUIRED,
}
_REASONS: Final = {
    generation_pb2.FINISH_REASON_STOP: types.FinishReason.STOP,
    generation_pb2.FINISH_REASON_LENGTH: types.FinishReason.LENGTH,
    generation_pb2.FINISH_REASON_STOP_SEQUENCE: types.FinishReason.STOP_SEQUENCE,
    generation_pb2.FINISH_REASON_TOOL_CALLS: types.FinishReason.TOOL_CALLS,
    generation_pb2.FINISH_REASON_CANCELLED: types.FinishReason.CANCELLED,
    generation_pb2.FINISH_REASON_DEADLINE: types.FinishReason.DEADLINE,
    generation_pb2.FINISH_REASON_ERROR: types.FinishReason.ERROR,
}
_ERRORS: Final[dict[grpc.StatusCode, type[errors.TpuserveError]]] = {
    kind.grpc_code: kind
    for kind in (
        errors.InvalidArgument,
        errors.UnknownModel,
        errors.FeatureMissing,
        errors.Unauthenticated,
        errors.PermissionDenied,
        errors.DeadlineExceeded,
        errors.Unavailable,
    )
}


def chat_request(
    messages: Sequence[types.Message], options: types.Options
) -> generation_pb2.ChatRequest:
    """Raises InvalidArgument when a value does not fit its wire type."""
    try:
        return generation_pb2.ChatRequest(
            model=options.model,
            messages=[message(item) for item in messages],
            sampling=_sampling(options),
            stopping=_stopping(options),
            logprobs=_logprobs(options.logprobs),
            priority=_priority(options.priority),
            n=options.n,
            prefix_key=options.prefix_key,
            tools=[_tool(tool) for tool in options.tools],
            tool_choice=_tool_choice(options.tool_choice),
            parallel_tool_calls=options.parallel_tool_calls,
            thinking=options.thinking,
            output_format=_output_format(options.output_format),
        )
    except (ValueError, TypeError) as error:
        raise errors.InvalidArgument(f"a value cannot be sent: {error}") from error


def generate_request(prompt: Prompt, options: types.Options) -> generation_pb2.GenerateRequest:
    """Raises InvalidArgument when a value does not fit its wire type."""
    try:
        request = generation_pb2.GenerateRequest(
            model=options.model,
            sampling=_sampling(options),
            stopping=_stopping(options),
            logprobs=_logprobs(options.logprobs),
            priority=_priority(options.priority),
            n=options.n,
            prefix_key=options.prefix_key,
            output_format=_output_format(options.output_format),
        )
        if isinstance(prompt, str):
            request.text = prompt
        else:
            request.token_ids.ids.extend(prompt)
            # An empty list is a prompt as well: the server shall say what is wrong with it.
            request.token_ids.SetInParent()
    except (ValueError, TypeError) as error:
        raise errors.InvalidArgument(f"a value cannot be sent: {error}") from error
    return request


def _output_format(value: OutputFormat | None) -> output_pb2.OutputFormat | None:
    return None if value is None else to_wire(value)


def tokenize_request(
    source: str | Sequence[types.Message], model: str, add_special_tokens: bool | None
) -> generation_pb2.TokenizeRequest:
    if isinstance(source, str):
        return generation_pb2.TokenizeRequest(
            model=model, text=source, add_special_tokens=add_special_tokens
        )
    conversation = generation_pb2.Conversation(messages=[message(item) for item in source])
    return generation_pb2.TokenizeRequest(model=model, chat=conversation)


def message(item: types.Message) -> chat_pb2.Message:
    role = _ROLES.get(item.role)
    if role is None:
        raise errors.InvalidArgument(
            f"role is {item.role!r}, must be one of {', '.join(_ROLES)}", field="messages"
        )
    parts = [chat_pb2.ContentPart(image=image) for image in item.images]
    if item.text or not (item.tool_calls or item.images):
        parts.append(chat_pb2.ContentPart(text=item.text))
    return chat_pb2.Message(
        role=role,
        content=parts,
        tool_calls=[
            chat_pb2.ToolCall(id=call.id, name=call.name, arguments_json=call.arguments_json)
            for call in item.tool_calls
        ],
        tool_call_id=item.tool_call_id,
        reasoning=item.reasoning,
    )


def _tool(tool: types.Tool) -> chat_pb2.Tool:
    parameters = "" if tool.parameters is None else json.dumps(tool.parameters)
    return chat_pb2.Tool(name=tool.name, description=tool.description, parameters_json=parameters)


def _tool_choice(
    choice: types.ToolMode | types.NamedFunction | None,
) -> chat_pb2.ToolChoice | None:
    if choice is None:
        return None
    if isinstance(choice, types.NamedFunction):
        return chat_pb2.ToolChoice(function=choice.name)
    return chat_pb2.ToolChoice(mode=_TOOL_MODES[choice])


def chunk(message: generation_pb2.GenerateChunk) -> types.Chunk | None:
    """None for an event that this client does not know."""
    event = message.WhichOneof("event")
    if event == "started":
        started = message.started
        return types.Started(
            request_id=started.request_id,
            model=started.model,
            prompt_tokens=started.prompt_tokens,
            cached_tokens=started.cached_tokens,
            seed=started.seed,
            device=started.device,
        )
    if event == "delta":
        delta = message.delta
        return types.Delta(
            index=delta.index,
            text=delta.text,
            token_ids=tuple(delta.token_ids),
            logprobs=_token_logprobs(delta.logprobs),
            reasoning=delta.reasoning,
            tool_calls=tuple(
                types.ToolCallDelta(call.index, call.id, call.name, call.arguments_json)
                for call in delta.tool_calls
            ),
        )
    if event == "finished":
        finished = message.finished
        return types.Finished(
            index=finished.index,
            reason=_reason(finished.reason),
            stop=finished.stop if finished.HasField("stop") else None,
            usage=_usage(finished.usage),
            timings=_timings(finished.timings),
        )
    return None


def reply(message: generation_pb2.GenerateReply) -> types.Reply:
    return types.Reply(
        request_id=message.request_id,
        model=message.model,
        seed=message.seed,
        device=message.device,
        completions=tuple(
            types.Completion(
                index=completion.index,
                text=completion.text,
                token_ids=tuple(completion.token_ids),
                logprobs=_token_logprobs(completion.logprobs),
                reason=_reason(completion.reason),
                stop=completion.stop if completion.HasField("stop") else None,
                timings=_timings(completion.timings),
                reasoning=completion.reasoning,
                tool_calls=tuple(
                    types.ToolCall(call.id, call.name, call.arguments_json)
                    for call in completion.tool_calls
                ),
            )
            for completion in message.completions
        ),
        usage=_usage(message.usage),
    )


def tokens(message: generation_pb2.TokenizeReply) -> types.Tokens:
    return types.Tokens(
        ids=tuple(message.ids),
        tokens=tuple(message.tokens),
        context_length=message.context_length,
    )


def model(message: generation_pb2.Model) -> types.Model:
    return types.Model(
        name=message.name,
        bmodel_sha256=message.bmodel_sha256,
        context_length=message.context_length,
        max_prompt_length=message.max_prompt_length,
        vocab_size=message.vocab_size,
        features=tuple(message.features),
        devices=message.devices,
        healthy_devices=message.healthy_devices,
        created_s=message.created_s,
    )


def error(failure: grpc.RpcError, address: str) -> errors.TpuserveError:
    """The typed error of a failed call to the server at `address`."""
    # The errors of the blocking and of the asyncio stack have these methods; their only common
    # base, RpcError, does not declare them.
    call = cast("grpc.aio.AioRpcError", failure)
    code, details = call.code(), call.details() or "no details"
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        trailers = dict(call.trailing_metadata() or ())
        pushback_ms = str(trailers.get("grpc-retry-pushback-ms", "1000"))
        retry_after_s = int(pushback_ms) / 1000 if pushback_ms.isdigit() else 1.0
        return errors.Overloaded(details, retry_after_s=retry_after_s)
    if code is grpc.StatusCode.CANCELLED:
        return errors.Unavailable(f"the server at {address} ended the call")
    return _ERRORS.get(code, errors.InternalError)(details)


def _sampling(options: types.Options) -> generation_pb2.SamplingParams:
    return generation_pb2.SamplingParams(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        penalty_window_tokens=options.penalty_window_tokens,
        logit_bias=dict(options.logit_bias),
        seed=options.seed,
    )


def _stopping(options: types.Options) -> generation_pb2.StoppingParams:
    return generation_pb2.StoppingParams(
        max_tokens=options.max_tokens,
        min_tokens=options.min_tokens,
        stop=options.stop,
        stop_token_ids=options.stop_token_ids,
        ignore_eos=options.ignore_eos,
    )


def _logprobs(top: int | None) -> generation_pb2.LogprobParams | None:
    return None if top is None else generation_pb2.LogprobParams(top=top)


def _priority(priority: types.Priority | None) -> generation_pb2.Priority.ValueType:
    return generation_pb2.PRIORITY_UNSPECIFIED if priority is None else _PRIORITIES[priority]


def _reason(reason: generation_pb2.FinishReason.ValueType) -> types.FinishReason:
    return _REASONS.get(reason, types.FinishReason.UNKNOWN)


def _usage(usage: generation_pb2.Usage) -> types.Usage:
    return types.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
    )


def _timings(timings: generation_pb2.Timings) -> types.Timings:
    return types.Timings(
        queue_us=timings.queue_us,
        prefill_us=timings.prefill_us,
        decode_us=timings.decode_us,
        ttft_us=timings.ttft_us,
    )


def _token_logprobs(
    items: Sequence[generation_pb2.TokenLogprob],
) -> tuple[types.TokenLogprob, ...]:
    return tuple(
        types.TokenLogprob(
            token_id=item.token_id,
            logprob=item.logprob,
            token=item.token,
            top=tuple(types.Candidate(c.token_id, c.logprob, c.token) for c in item.top),
        )
        for item in items
    )
