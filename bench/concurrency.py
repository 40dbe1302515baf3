"""Many clients at once over the real engine."""

from __future__ import annotations

import asyncio
import time

from bench import client, stats
from bench.processes import Stack
from bench.report import Row, Section

_QUESTIONS = (
    "What is a BM1684X?",
    "What is gRPC?",
    "Hello!",
    "What is 2 + 3?",
)

METHOD = (
    "Each client asks one question at the same moment and reads its answer to the end; there are "
    "more clients than slots, so most of them wait first. Alone is the mean of one client at a "
    "time with the same questions."
)


async def run(stack: Stack, *, clients: int, tokens: int) -> Section:
    requests = [
        client.chat_request(_QUESTIONS[i % len(_QUESTIONS)], tokens) for i in range(clients)
    ]
    async with client.gateway(stack.address) as gateway:
        alone = [await gateway.chat(request) for request in requests[: len(_QUESTIONS)]]
        started_s = time.perf_counter()
        together = await asyncio.gather(*(gateway.chat(request) for request in requests))
        wall_s = time.perf_counter() - started_s
    same = sum(stream.text == alone[i % len(_QUESTIONS)].text for i, stream in enumerate(together))
    ttft = stats.summary([stream.ttft_s for stream in together])
    return Section(
        "concurrency",
        f"{clients} clients at once",
        METHOD,
        (
            Row("clients", clients, ""),
            Row("tokens each", tokens, ""),
            Row("alone", stats.mean([s.tokens_per_s for s in alone]), "tokens/s"),
            Row("together", sum(s.tokens for s in together) / wall_s, "tokens/s"),
            Row("answers equal to those alone", same, ""),
            Row("TTFT, p50", ttft.p50, "s"),
            Row("TTFT, p99", ttft.p99, "s"),
        ),
    )
