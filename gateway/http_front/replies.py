"""Reply bodies of the OpenAI routes, whole and in chunks."""

from __future__ import annotations

import time
from typing import Final, Protocol

import msgspec

from gateway.collect import Answer, Completion
from gateway.http_front.logprobs import chat_logprobs, completion_logprobs, token_chars
from gateway.request import (
    Delta,
    FinishReason,
    GenerationRequest,
    Started,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

_REASONS: Final = {
    FinishReason.STOP: "stop",
    FinishReason.STOP_SEQUENCE: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.TOOL_CALLS: "tool_calls",
}
_encode: Final = msgspec.json.Encoder().encode


class ChunkWriter(Protocol):
    """Makes the events of one stream. Built from `started`, which names model and request."""

    def opening(self) -> bytes:
        """What comes before the first delta."""

    def delta(self, delta: Delta) -> bytes:
        """May be empty when there is nothing to show."""

    def finish(self, index: int, reason: FinishReason) -> bytes: ...

    def usage(self, usage: Usage) -> bytes: ...


class _Chunks:
    """A stream's chunks differ in `choices` only; the rest is encoded once."""

    def __init__(self, kind: str, started: Started, *, include_usage: bool) -> None:
        head = _encode(_head(kind, started))
        self._head = b"data: " + head[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"

    def _chunk(self, choice: bytes) -> bytes:
        return self._head + choice + self._tail

    def usage(self, usage: Usage) -> bytes:
        return self._head + b'],"usage":' + _encode(usage_body(usage)) + b"}\n\n"


class ChatChunks(_Chunks):
    def __init__(
        self, request: GenerationRequest, started: Started, *, include_usage: bool
    ) -> None:
        super().__init__("chat.completion.chunk", started, include_usage=include_usage)
        self._indexes = range(len(request.prompts) * request.n)

    def opening(self) -> bytes:
        return b"".join(
            self._chunk(
                b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,'
                b'"finish_reason":null}' % index
            )
            for index in self._indexes
        )

    def delta(self, delta: Delta) -> bytes:
        extra = _beside_content(delta) if delta.reasoning or delta.tool_calls else b""
        if not delta.text and not delta.logprobs and not extra:
            return b""
        logprobs = _encode(chat_logprobs(delta.logprobs)) if delta.logprobs else b"null"
        content = b"null" if extra and not delta.text else _encode(delta.text)
        return self._chunk(
            b'{"index":%d,"delta":{"content":%b%b},"logprobs":%b,"finish_reason":null}'
            % (delta.index, content, extra, logprobs)
        )

    def finish(self, index: int, reason: FinishReason) -> bytes:
        return self._chunk(
            b'{"index":%d,"delta":{},"logprobs":null,"finish_reason":"%b"}'
            % (index, _REASONS[reason].encode())
        )


def _beside_content(delta: Delta) -> bytes:
    """Further members of a chunk's delta, each with a comma before it."""
    members = b""
    if delta.reasoning:
        members += b',"reasoning_content":' + _encode(delta.reasoning)
    if delta.tool_calls:
        members += b',"tool_calls":' + _encode([_call_delta(c) for c in delta.tool_calls])
    return members


def _call_delta(call: ToolCallDelta) -> dict[str, object]:
    function: dict[str, str] = {"arguments": call.arguments_json}
    if not call.id:
        return {"index": call.index, "function": function}
    return {
        "index": call.index,
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, **function},
    }


def _message(completion: Completion) -> dict[str, object]:
    calls = completion.tool_calls
    message: dict[str, object] = {
        "role": "assistant",
        "content": completion.text if completion.text or not calls else None,
        "refusal": None,
    }
    if completion.reasoning:
        message["reasoning_content"] = completion.reasoning
    if calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments_json},
            }
            for call in calls
        ]
    return message


class CompletionChunks(_Chunks):
    """`echoes` is the prompt's text for each index, or empty."""

    def __init__(
        self,
        request: GenerationRequest,
        started: Started,
        *,
        include_usage: bool,
        echoes: list[str],
    ) -> None:
        super().__init__("text_completion", started, include_usage=include_usage)
        self._echoes = echoes
        self._offsets = [0] * (len(request.prompts) * request.n)

    def opening(self) -> bytes:
        return b"".join(self._text(i, echo, []) for i, echo in enumerate(self._echoes))

    def delta(self, delta: Delta) -> bytes:
        if not delta.text and not delta.logprobs:
            return b""
        return self._text(delta.index, delta.text, delta.logprobs)

    def _text(self, index: int, text: str, entries: list[TokenLogprob]) -> bytes:
        logprobs = b"null"
        if entries:
            logprobs = _encode(completion_logprobs(entries, offset=self._offsets[index]))
            self._offsets[index] += token_chars(entries)
        return self._chunk(
            b'{"index":%d,"text":%b,"logprobs":%b,"finish_reason":null}'
            % (index, _encode(text), logprobs)
        )

    def finish(self, index: int, reason: FinishReason) -> bytes:
        return self._chunk(
            b'{"index":%d,"text":"","logprobs":null,"finish_reason":"%b"}'
            % (index, _REASONS[reason].encode())
        )


def chat_reply(answer: Answer, *, with_logprobs: bool) -> bytes:
    def choice(completion: Completion) -> dict[str, object]:
        return {
            "index": completion.index,
            "message": _message(completion),
            "logprobs": chat_logprobs(completion.logprobs) if with_logprobs else None,
            "finish_reason": _REASONS[completion.reason],
        }

    return _encode(
        {
            **_head("chat.completion", answer.started),
            "choices": [choice(completion) for completion in answer.completions],
            "usage": usage_body(answer.usage),
        }
    )


def completion_reply(answer: Answer, *, with_logprobs: bool, echoes: list[str]) -> bytes:
    def choice(completion: Completion) -> dict[str, object]:
        echo = echoes[completion.index] if echoes else ""
        return {
            "index": completion.index,
            "text": echo + completion.text,
            "logprobs": completion_logprobs(completion.logprobs, offset=0)
            if with_logprobs
            else None,
            "finish_reason": _REASONS[completion.reason],
        }

    return _encode(
        {
            **_head("text_completion", answer.started),
            "choices": [choice(completion) for completion in answer.completions],
            "usage": usage_body(answer.usage),
        }
    )


def usage_body(usage: Usage) -> dict[str, object]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _head(kind: str, started: Started) -> dict[str, object]:
    return {
        "id": started.request_id,
        "object": kind,
        "created": int(time.time()),
        "model": started.model,
        "system_fingerprint": f"fp_{started.bmodel_sha256[:12]}",
    }
