"""A whole answer from a stream of events, for the unary calls of both front ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from gateway.answer import whole_calls
from gateway.request import (
    Delta,
    Event,
    FinishReason,
    Started,
    Timings,
    TokenLogprob,
    ToolCall,
    Usage,
)


@dataclass(frozen=True, slots=True)
class Completion:
    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob]
    reason: FinishReason
    stop: str | None
    timings: Timings
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """Completions in the order of their index; the prompt counts once in `usage`."""

    started: Started
    completions: list[Completion]
    usage: Usage


async def collect(events: AsyncGenerator[Event, None]) -> Answer:
    """Read to the end; cancelling this closes the stream, which cancels the request."""
    started: Started | None = None
    deltas: dict[int, list[Delta]] = {}
    completions: list[Completion] = []
    completion_tokens = 0
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Delta):
                deltas.setdefault(event.index, []).append(event)
            elif isinstance(event, Started):
                started = event
            else:
                parts = deltas.pop(event.index, [])
                completion_tokens += event.usage.completion_tokens
                completions.append(
                    Completion(
                        index=event.index,
                        text="".join(part.text for part in parts),
                        token_ids=[i for part in parts for i in part.token_ids],
                        logprobs=[entry for part in parts for entry in part.logprobs],
                        reason=event.reason,
                        stop=event.stop,
                        timings=event.timings,
                        reasoning="".join(part.reasoning for part in parts),
                        tool_calls=whole_calls(c for part in parts for c in part.tool_calls),
                    )
                )
    assert started is not None
    completions.sort(key=lambda completion: completion.index)
    usage = Usage(started.prompt_tokens, completion_tokens, started.cached_tokens)
    return Answer(started, completions, usage)
