"""A chat over the OpenAI HTTP API with nothing but the standard library."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from tpuserve.client import Chunk, Delta, Finished, FinishReason, Timings, Usage


def ask(
    base_url: str, model: str, question: str, *, max_tokens: int, timeout_s: float
) -> Iterator[Chunk]:
    """Stream one answer from `base_url`/v1/chat/completions.

    Raises OSError when the connection fails and ValueError when the server refuses or says
    something that is not the protocol.
    """
    parts = urlsplit(base_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    try:
        connection.request(
            "POST",
            "/v1/chat/completions",
            body=json.dumps(body),
            headers={"Content-Type": "application/json"},
        )
        response = connection.getresponse()
        if response.status != 200:
            raise ValueError(f"status {response.status}: {response.read(2000).decode()}")
        yield from _chunks(_events(response))
    except http.client.HTTPException as error:
        raise ValueError(f"the stream broke: {error!r}") from error
    finally:
        connection.close()


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The JSON document of each `data:` line, up to [DONE]."""
    for line in response:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise ValueError(str(event["error"].get("message", event["error"])))
        yield event
    raise ValueError("the stream ended without [DONE]")


def _chunks(events: Iterator[dict[str, Any]]) -> Iterator[Chunk]:
    """As chunks of the gRPC API; what this protocol does not tell is left empty or zero."""
    reason = FinishReason.UNKNOWN
    usage = Usage(0, 0, 0)
    for event in events:
        for choice in event["choices"]:
            if text := choice["delta"].get("content"):
                yield Delta(choice["index"], text, (), ())
            if choice.get("finish_reason"):
                reason = FinishReason(choice["finish_reason"])
        if counted := event.get("usage"):
            usage = Usage(counted["prompt_tokens"], counted["completion_tokens"], 0)
    yield Finished(0, reason, None, usage, Timings(0, 0, 0, 0))
