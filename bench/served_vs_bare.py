"""A served stream against a C++ loop that does nothing but decode."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import client, stats
from bench.processes import Stack
from bench.report import Row, Section, at_least
from tpuserve import model_dir
from tpuserve.runtime_library import RuntimeLibrary

_QUESTION = "What is a BM1684X?"

METHOD = (
    "The same prompt and bmodel, greedy, in turns through client, gateway and device, and by "
    "csrc/bench/bare_loop in a process of its own while the services are stopped (SIGSTOP); every "
    "other round begins with the loop. Rates are of decoding alone, from the first token to the "
    "last; the ratio is the median of the rounds' ratios. Step and gap are medians of a round, and "
    "of these the median: they hold even when other programs take CPUs away now and then. "
    "What is outside the engine is the scheduler's. What a step takes longer than in the loop goes "
    "to the other processes: they share the CPUs with an emulated chip, but not with a real one."
)


@dataclass(frozen=True, slots=True)
class Rate:
    """Of one round's decoding: all of it, and its median step."""

    tokens_per_s: float
    step_ms: float


@dataclass(frozen=True, slots=True)
class BareLoop:
    """How to run the loop: its program and the vendor's libraries."""

    program: Path
    library: RuntimeLibrary
    bmodel: Path

    @classmethod
    def of(cls, program: Path, library: RuntimeLibrary, model: Path) -> BareLoop:
        return cls(program, library, model_dir.load(model).bmodel)

    async def run(self, prompt_ids: Sequence[int], tokens: int) -> Rate:
        command = [str(self.program), str(self.library.directory), str(self.bmodel)]
        command += ["--tokens", str(tokens), "--prompt", ",".join(map(str, prompt_ids))]
        if self.library.emulator:
            command.append("--emulator")
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=300, check=True
        )
        measured = json.loads(done.stdout.splitlines()[-1])
        return Rate(measured["tokens_per_s"], measured["median_ms_per_token"])


async def run(stack: Stack, bare_loop: BareLoop, *, rounds: int, tokens: int) -> Section:
    request = client.chat_request(_QUESTION, tokens + 1)
    bare: list[Rate] = []
    served: list[client.Stream] = []
    engine_s: list[float] = []
    async with client.gateway(stack.address) as gateway:
        prompt_ids = await gateway.prompt_ids(request)
        await gateway.chat(request)

        async def bare_turn() -> None:
            with stack.paused():
                bare.append(await bare_loop.run(prompt_ids, tokens))

        async def served_turn() -> None:
            before_s = stack.decode_engine_s()
            served.append(await gateway.chat(request))
            engine_s.append(stack.decode_engine_s() - before_s)

        for number in range(rounds):
            turns = (bare_turn, served_turn) if number % 2 == 0 else (served_turn, bare_turn)
            for turn in turns:
                await turn()
    return Section("served_vs_bare", "Served against bare", METHOD, _rows(bare, served, engine_s))


def _rows(bare: list[Rate], served: list[client.Stream], engine_s: list[float]) -> tuple[Row, ...]:
    rates = [Rate(s.decode_tokens_per_s, stats.median(s.gaps_s) * 1e3) for s in served]
    shares = [
        100 * mine.tokens_per_s / theirs.tokens_per_s
        for mine, theirs in zip(rates, bare, strict=True)
    ]
    busy = [
        100 * each_s / (stream.arrivals_s[-1] - stream.arrivals_s[0])
        for stream, each_s in zip(served, engine_s, strict=True)
    ]
    step_ms = stats.median([rate.step_ms for rate in bare])
    gap_ms = stats.median([rate.step_ms for rate in rates])
    return (
        Row("rounds", len(bare), ""),
        Row("bare loop", stats.median([rate.tokens_per_s for rate in bare]), "tokens/s"),
        Row("served", stats.median([rate.tokens_per_s for rate in rates]), "tokens/s"),
        at_least("served of bare", stats.median(shares), "%", 97),
        Row("served of bare, quartiles: lower", stats.quantile(shares, 0.25), "%"),
        Row("served of bare, quartiles: upper", stats.quantile(shares, 0.75), "%"),
        Row("bare loop, median step", step_ms, "ms"),
        Row("served, median gap", gap_ms, "ms"),
        Row("median step of median gap", 100 * step_ms / gap_ms, "%"),
        Row("served, share of time in the engine", stats.median(busy), "%"),
        Row("served, prefill included", stats.median([s.tokens_per_s for s in served]), "tokens/s"),
        Row("TTFT, prefill included", stats.median([s.ttft_s for s in served]) * 1e3, "ms"),
    )
