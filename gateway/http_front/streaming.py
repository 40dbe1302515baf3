"""One request's events, written as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from aiohttp import web

from gateway.http_front import sse
from gateway.http_front.errors import as_typed, error_object
from gateway.http_front.replies import ChunkWriter
from gateway.request import Delta, Event, Started, Usage


async def stream_openai(
    http: web.Request,
    events: AsyncGenerator[Event, None],
    *,
    chunks: Callable[[Started], ChunkWriter],
    include_usage: bool,
) -> web.StreamResponse:
    """Errors before the first byte are raised; later ones are an event, and no [DONE] follows."""
    async with aclosing(events):
        started = await anext(events)
        assert isinstance(started, Started)
        writer = chunks(started)
        response = sse.response(started.request_id)
        await response.prepare(http)
        await response.write(writer.opening())
        completion_tokens = 0
        try:
            async for event in events:
                if isinstance(event, Delta):
                    chunk = writer.delta(event)
                    if chunk:
                        await response.write(chunk)
                elif not isinstance(event, Started):
                    completion_tokens += event.usage.completion_tokens
                    await response.write(writer.finish(event.index, event.reason))
        except ConnectionError:
            raise
        except Exception as error:
            await response.write(sse.event(error_object(as_typed(error))))
            return response
        if include_usage:
            usage = Usage(started.prompt_tokens, completion_tokens, started.cached_tokens)
            await response.write(writer.usage(usage))
        await response.write(sse.DONE)
        return response


async def stream_cumulative(
    http: web.Request, events: AsyncGenerator[Event, None]
) -> web.StreamResponse:
    """The old demos' form: each event is the whole answer so far, and nothing marks the end."""
    async with aclosing(events):
        started = await anext(events)
        assert isinstance(started, Started)
        response = sse.response(started.request_id)
        await response.prepare(http)
        text = ""
        try:
            async for event in events:
                if isinstance(event, Delta) and event.text:
                    text += event.text
                    await response.write(sse.text_event(text))
        except ConnectionError:
            raise
        except Exception as error:
            await response.write(sse.event(error_object(as_typed(error))))
        return response
