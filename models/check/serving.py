"""Asks a model that all three services serve, over gRPC and with the OpenAI SDK."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import openai

from bench.processes import Stack, stack
from models.check.numbers import Array, is_best
from tpuserve.client import Client, Message, Options, Tool, ToolMode
from tpuserve.client.types import Reply, ToolCall
from tpuserve.model_dir import ModelDir

ANSWER_TOKENS: Final = 12
_CALL_TOKENS: Final = 200
_TIMEOUT_S: Final = 180.0
_QUESTION: Final = "Is the lamp on?"
# Its arguments have an end whatever a random model prefers.
_LAMP: Final = Tool(
    name="set_lamp",
    description="Switch the lamp.",
    parameters={
        "type": "object",
        "properties": {"state": {"enum": ["on", "off"]}},
        "required": ["state"],
        "additionalProperties": False,
    },
)


@dataclass(frozen=True, slots=True)
class Served:
    """A model directory and what its device service is told besides."""

    model: Path
    device_arguments: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: ModelDir) -> Served:
        return cls(model.path)


@dataclass(frozen=True, slots=True)
class Answered:
    """tokens: of the answer over gRPC, greedily drawn. agreeing: those that are the reference's
    best. problems: where the interfaces differ or a call is not what was asked for.
    """

    tokens: int
    agreeing: int
    called: bool
    problems: tuple[str, ...]

    def describe(self, kind: str) -> str:
        call = ", tool call" if self.called else ""
        return f"{kind} {self.agreeing}/{self.tokens}{call}"


@contextmanager
def clients(served: Served) -> Iterator[tuple[Client, openai.OpenAI]]:
    """Both clients of a stack on the emulator."""
    arguments = ("--runtime", "emulator", *served.device_arguments)
    with (
        stack(served.model, device_module="device_svc", device_arguments=arguments) as running,
        Client(running.address) as client,
        _sdk(running) as sdk,
    ):
        yield client, sdk


def _sdk(running: Stack) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{running.http_url}/v1", api_key="unused", max_retries=0, timeout=_TIMEOUT_S
    )


def ask(
    served: Served,
    logits: Callable[[Array], Array],
    *,
    chats: bool = True,
    tools: bool = False,
    image: bytes | None = None,
) -> Answered:
    """`logits` is the reference, of ids [n] -> [n, vocab]; `image` a file that the question is
    about. Raises on a failing call."""
    options = Options(
        temperature=0, max_tokens=ANSWER_TOKENS, ignore_eos=True, timeout_s=_TIMEOUT_S
    )
    messages = [Message("user", _QUESTION, images=(image,) if image else ())]
    with clients(served) as (client, sdk):
        if chats:
            prompt = client.tokenize(messages).ids
            reply = client.chat_once(messages, options)
            other = _chat_text(sdk, image)
        else:
            prompt = client.tokenize(_QUESTION).ids
            reply = client.generate_once(_QUESTION, options)
            other = _completion_text(sdk)
        problems = [] if other == reply.text else [f"gRPC {reply.text!r}, OpenAI {other!r}"]
        if tools:
            problems += _call_problems(client, sdk)
    tokens, agreeing = _agreement(prompt, reply, logits)
    if agreeing < tokens:
        problems.append("the answer's tokens are not all the reference's")
    return Answered(tokens, agreeing, tools, tuple(problems))


def _agreement(
    prompt: tuple[int, ...], reply: Reply, logits: Callable[[Array], Array]
) -> tuple[int, int]:
    drawn = reply.completions[0].token_ids
    expected = logits(np.array([*prompt, *drawn], np.int32))[len(prompt) - 1 : -1]
    return len(drawn), sum(is_best(i, row) for i, row in zip(drawn, expected, strict=True))


def _common(sdk: openai.OpenAI, tokens: int) -> dict[str, Any]:
    (model,) = sdk.models.list().data
    return {"model": model.id, "temperature": 0, "max_tokens": tokens}


def _chat_text(sdk: Any, image: bytes | None) -> str:
    content: list[dict[str, Any]] = [{"type": "text", "text": _QUESTION}]
    if image:
        url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
        content.insert(0, {"type": "image_url", "image_url": {"url": url}})
    stream = sdk.chat.completions.create(
        messages=[{"role": "user", "content": content}],
        stream=True,
        extra_body={"ignore_eos": True},
        **_common(sdk, ANSWER_TOKENS),
    )
    return "".join(c.choices[0].delta.content or "" for c in stream if c.choices)


def _completion_text(sdk: openai.OpenAI) -> str:
    stream = sdk.completions.create(
        prompt=_QUESTION,
        stream=True,
        extra_body={"ignore_eos": True},
        **_common(sdk, ANSWER_TOKENS),
    )
    return "".join(c.choices[0].text for c in stream if c.choices)


def _call_problems(client: Client, sdk: Any) -> list[str]:
    """A random model calls nothing of itself: the call is required, and its form enforced."""
    options = Options(
        temperature=0,
        max_tokens=_CALL_TOKENS,
        tools=[_LAMP],
        tool_choice=ToolMode.REQUIRED,
        parallel_tool_calls=False,
        timeout_s=_TIMEOUT_S,
    )
    calls = list(client.chat_once([Message("user", _QUESTION)], options).tool_calls)
    function = {
        "name": _LAMP.name,
        "description": _LAMP.description,
        "parameters": _LAMP.parameters,
    }
    reply = sdk.chat.completions.create(
        messages=[{"role": "user", "content": _QUESTION}],
        tools=[{"type": "function", "function": function}],
        tool_choice="required",
        parallel_tool_calls=False,
        **_common(sdk, _CALL_TOKENS),
    )
    others = [
        ToolCall(call.id, call.function.name, call.function.arguments)
        for call in reply.choices[0].message.tool_calls or ()
    ]
    return _wrong("gRPC", calls) + _wrong("OpenAI", others)


def _wrong(interface: str, calls: list[ToolCall]) -> list[str]:
    try:
        (call,) = calls
        state = json.loads(call.arguments_json)["state"]
    except (ValueError, KeyError, TypeError):
        return [f"{interface} tool calls are {calls}"]
    if call.name != _LAMP.name or state not in ("on", "off"):
        return [f"{interface} tool calls are {calls}"]
    return []
