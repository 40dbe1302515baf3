"""CPU time of gateway and tokenizer per relayed token and per request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench import client
from bench.processes import Stack, stack
from bench.report import Row, Section

_QUESTION = "What is a BM1684X?"
_STEP_US = 20_000

METHOD = (
    "The device computes nothing: in a burst it sends steps as fast as they are taken, paced it "
    "sends one each 20 ms. All streams are one client's, over one connection; a step carries one "
    "token for each of them. CPU is user plus system time of the process, from /proc, over the "
    "tokens (or one-token requests) that the client received."
)


@dataclass(frozen=True, slots=True)
class Load:
    """`streams` at once, each of `tokens` tokens, `requests` of them in all."""

    streams: int
    tokens: int
    requests: int


# Long enough for a clock of 10 ms ticks to read each to a few percent.
_BURSTS = (Load(1, 900, 10), Load(16, 900, 32), Load(64, 900, 64))
_PACED = (Load(1, 250, 1), Load(16, 250, 16), Load(64, 250, 64))
_REQUESTS = (Load(1, 1, 1000), Load(32, 1, 2000))


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds of each process while a load ran, and what they bought."""

    gateway_s: float
    tokenizer_s: float
    wall_s: float
    tokens: int
    messages: int
    requests: int


def run(model: Path) -> Section:
    rows: list[Row] = []
    with stack(model, device_module="bench.instant_device") as instant:
        for load in _BURSTS:
            rows += _token_rows(f"burst, {load.streams} streams", uvloop.run(_cost(instant, load)))
        for load in _REQUESTS:
            rows += _request_rows(f"{load.streams} at a time", uvloop.run(_cost(instant, load)))
        rows.append(Row("memory, gateway", instant.gateway.rss_bytes() / 2**20, "MiB"))
        rows.append(Row("memory, tokenizer", instant.tokenizer.rss_bytes() / 2**20, "MiB"))
    step = ("--step-us", str(_STEP_US))
    with stack(model, device_module="bench.instant_device", device_arguments=step) as paced:
        for load in _PACED:
            rows += _token_rows(f"paced, {load.streams} streams", uvloop.run(_cost(paced, load)))
    return Section("cpu", "CPU per token and per request", METHOD, tuple(rows))


async def _cost(running: Stack, load: Load) -> Cost:
    """Of the load through the gateway, after one request to warm up."""
    request = client.chat_request(_QUESTION, load.tokens)
    async with client.gateway(running.address) as gateway:
        await gateway.chat(request)
        numbers = iter(range(load.requests))
        finished: list[client.Stream] = []

        async def one_after_another() -> None:
            for _ in numbers:
                finished.append(await gateway.chat(request))

        loop = asyncio.get_running_loop()
        before = (running.gateway.cpu_s(), running.tokenizer.cpu_s())
        started_s = loop.time()
        await asyncio.gather(*(one_after_another() for _ in range(load.streams)))
        wall_s = loop.time() - started_s
        after = (running.gateway.cpu_s(), running.tokenizer.cpu_s())
    return Cost(
        gateway_s=after[0] - before[0],
        tokenizer_s=after[1] - before[1],
        wall_s=wall_s,
        tokens=sum(stream.tokens for stream in finished),
        messages=sum(len(stream.arrivals_s) for stream in finished),
        requests=len(finished),
    )


def _token_rows(label: str, cost: Cost) -> list[Row]:
    return [
        Row(f"{label}: gateway", cost.gateway_s / cost.tokens * 1e6, "µs/token"),
        Row(f"{label}: tokenizer", cost.tokenizer_s / cost.tokens * 1e6, "µs/token"),
        Row(f"{label}: relayed", cost.tokens / cost.wall_s, "tokens/s"),
        Row(f"{label}: tokens per message to the client", cost.tokens / cost.messages, ""),
    ]


def _request_rows(label: str, cost: Cost) -> list[Row]:
    return [
        Row(f"one-token requests, {label}: gateway", cost.gateway_s / cost.requests * 1e3, "ms"),
        Row(
            f"one-token requests, {label}: tokenizer", cost.tokenizer_s / cost.requests * 1e3, "ms"
        ),
        Row(f"one-token requests, {label}: answered", cost.requests / cost.wall_s, "req/s"),
    ]
