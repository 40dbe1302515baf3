"""A served stream against a C++ loop that does nothing but decode."""

from __future__ import annotations

import asyncio
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench import client, stats
from bench.processes import Stack
from bench.report import Row, Section, at_least
from tpuserve import model_dir
from tpuserve.runtime_library import RuntimeLibrary

_QUESTION = "What is a BM1684X?"

METHOD = (
    "The same prompt and bmodel, greedy, alternately through client, gateway and device, and by "
    "csrc/bench/bare_loop in a process of its own while the services are stopped (SIGSTOP). Each "
    "rate is of decoding alone: from the first token to the last. Medians over the rounds; the "
    "ratio is the median of the rounds' ratios."
)


@dataclass(frozen=True, slots=True)
class BareLoop:
    """How to run the loop: its program and the vendor's libraries."""

    program: Path
    library: RuntimeLibrary
    bmodel: Path

    @classmethod
    def of(cls, program: Path, library: RuntimeLibrary, model: Path) -> BareLoop:
        return cls(program, library, model_dir.load(model).bmodel)

    async def tokens_per_s(self, prompt_ids: list[int], tokens: int) -> float:
        command = [str(self.program), str(self.library.directory), str(self.bmodel)]
        command += ["--tokens", str(tokens), "--prompt", ",".join(map(str, prompt_ids))]
        if self.library.emulator:
            command.append("--emulator")
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=300, check=True
        )
        return float(json.loads(done.stdout.splitlines()[-1])["tokens_per_s"])


async def run(stack: Stack, bare_loop: BareLoop, *, rounds: int, tokens: int) -> Section:
    request = client.chat_request(_QUESTION, tokens + 1)
    bare: list[float] = []
    served: list[client.Stream] = []
    async with client.gateway(stack.address) as gateway:
        prompt_ids = await gateway.prompt_ids(request)
        await gateway.chat(request)
        for _ in range(rounds):
            with stack.paused():
                bare.append(await bare_loop.tokens_per_s(prompt_ids, tokens))
            served.append(await gateway.chat(request))
    return Section("served_vs_bare", "Served against bare", METHOD, _rows(bare, served))


def _rows(bare: list[float], served: list[client.Stream]) -> tuple[Row, ...]:
    ratios = [
        100 * stream.decode_tokens_per_s / rate for rate, stream in zip(bare, served, strict=True)
    ]
    return (
        Row("rounds", len(bare), ""),
        Row("bare loop", stats.median(bare), "tokens/s"),
        Row("served", stats.median([s.decode_tokens_per_s for s in served]), "tokens/s"),
        at_least("served of bare", stats.median(ratios), "%", 97),
        Row("served of bare, lowest round", min(ratios), "%"),
        Row("served of bare, highest round", max(ratios), "%"),
        Row("served, prefill included", stats.median([s.tokens_per_s for s in served]), "tokens/s"),
        Row("TTFT, prefill included", stats.median([s.ttft_s for s in served]) * 1e3, "ms"),
    )
