"""The first token behind a resident prefix against that of a cold prompt."""

from __future__ import annotations

import random

from bench import client, stats
from bench.processes import Stack
from bench.report import Row, Section, at_most

_SHARE = 0.9

METHOD = (
    "One-token requests straight to the device's session, one after another: in turns a prompt of "
    "random ids (cold) and one that shares its first 90 % with a prompt before it (hit), both of "
    "one length. That length is the longest at which the shared part is whole prefill chunks, for "
    "only these are reused: a part of a chunk is computed again. The ratio is that of the medians."
)


class UnsuitableModelError(ValueError):
    """Its prefill cannot continue behind a prefix."""


async def run(stack: Stack, rounds: int) -> Section:
    choice = random.Random(1684)
    """Raises UnsuitableModelError."""
    async with client.device(stack.device_address) as device:
        info = device.info
        chunk = info.prefill_chunk_tokens
        shared_tokens = int(_SHARE * info.max_prompt_length) // chunk * chunk
        if "history" not in info.features or not shared_tokens:
            raise UnsuitableModelError("the bmodel has no prefill with history: nothing is reused")
        length = round(shared_tokens / _SHARE)

        def ids(count: int) -> list[int]:
            return [choice.randrange(info.vocab_size) for _ in range(count)]

        shared = ids(shared_tokens)
        await device.first_token(shared + ids(length - shared_tokens))
        cold: list[client.FirstToken] = []
        hit: list[client.FirstToken] = []
        for _ in range(rounds):
            cold.append(await device.first_token(ids(length)))
            hit.append(await device.first_token(shared + ids(length - shared_tokens)))
    cold_ms, hit_ms = (stats.median([t.elapsed_s for t in each]) * 1e3 for each in (cold, hit))
    rows = (
        Row("prompt", length, "tokens"),
        Row("shared", shared_tokens, "tokens"),
        Row("reused by hits, least", min(token.cached_tokens for token in hit), "tokens"),
        Row("reused by cold prompts, most", max(token.cached_tokens for token in cold), "tokens"),
        Row("TTFT cold", cold_ms, "ms"),
        Row("TTFT hit", hit_ms, "ms"),
        at_most("hit of cold", hit_ms / cold_ms, "", 0.2),
    )
    return Section("prefix_ttft", "First token behind a shared prefix", METHOD, rows)
