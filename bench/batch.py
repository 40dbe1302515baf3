"""Tokens a second and the gaps between them as the batch grows."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench import client, stats
from bench.processes import Service, service
from bench.report import Row, Section, at_most

_ROOT = Path(__file__).resolve().parents[1]
_EMULATED = _ROOT / "tests" / "fixtures" / "models" / "batch4"
_PROFILE = _ROOT / "csrc" / "simchip" / "profiles" / "qwen2.5-7b-w4-b16.toml"
_LAUNCH_LIMIT = 1.35

METHOD = (
    "Requests of equal length, submitted together straight to the device's session, prefix reuse "
    "off. Rates and gaps (ITL) are those of the time in which all of them decode, from the last "
    "one's first token on; p99 of few hundred gaps is nearly the largest."
)


@dataclass(frozen=True, slots=True)
class Load:
    """So many requests at once for each of `batches`; lengths in tokens."""

    batches: Sequence[int]
    prompt_tokens: int
    max_tokens: int


def emulated() -> Section:
    """The batch-4 bmodel on the emulator: launches count, times are the emulator's own."""
    arguments = ("--model", str(_EMULATED), "--runtime", "emulator")
    rows = _measure(arguments, Load((1, 2, 4), prompt_tokens=20, max_tokens=80))
    title = "Batch of 4 on the emulator (its speed says nothing about a card)"
    return Section("batch_emulator", title, METHOD, tuple(rows))


def simulated() -> Section:
    """A simulated chip that takes the time of the cycle model, in real time."""
    with tempfile.TemporaryDirectory(prefix="tpuserve-") as directory:
        model = Path(directory) / "model"
        writer = [sys.executable, "-m", "tests.support.simchip_bmodel", str(_PROFILE)]
        writer += ["-o", str(model), "--config", str(_ROOT / "models" / "demo" / "config")]
        subprocess.run(writer, cwd=_ROOT, check=True, capture_output=True, text=True)
        arguments = ("--model", str(model), "--runtime", f"simchip:{_PROFILE}")
        rows = _measure(arguments, Load((1, 4, 8, 16), prompt_tokens=100, max_tokens=48))
    title = "Qwen2.5-7B, 4 bits, 16 slots of 512: SIMULATED in the time of the cycle model"
    return Section("batch_simulated", title, METHOD, tuple(rows))


def _measure(arguments: Sequence[str], load: Load) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="tpuserve-") as name:
        fixed = ("--listen", f"unix:{name}/device.sock", "--metrics-listen", "127.0.0.1:0")
        given = (*arguments, *fixed, "--prefix-cache", "off")
        with service("device_svc", given, log_directory=Path(name)) as device:
            return uvloop.run(_rows(device, load))


async def _rows(device: Service, load: Load) -> list[Row]:
    draw = random.Random(1684)
    rows: list[Row] = []
    launches: dict[int, int] = {}
    async with client.device(device.ready["address"]) as session:
        for batch in load.batches:
            prompts = [
                [draw.randrange(3, session.info.vocab_size) for _ in range(load.prompt_tokens)]
                for _ in range(batch)
            ]
            before = _launches(device)
            arrivals_s = await session.together(prompts, load.max_tokens)
            launches[batch] = _launches(device) - before
            rows += _rows_of(batch, arrivals_s)
    if 4 in launches:
        ratio = launches[4] / launches[1]
        rows.append(at_most("launches of 4 requests ÷ 1", ratio, "", _LAUNCH_LIMIT))
    return rows


def _rows_of(batch: int, arrivals_s: Sequence[Sequence[float]]) -> list[Row]:
    start_s = max(stamps[0] for stamps in arrivals_s)
    end_s = min(stamps[-1] for stamps in arrivals_s)
    decoding = [[s for s in stamps if start_s <= s <= end_s] for stamps in arrivals_s]
    gaps_ms = [
        1000 * (after - before)
        for stamps in decoding
        for before, after in itertools.pairwise(stamps)
    ]
    rate = sum(len(stamps) - 1 for stamps in decoding) / (end_s - start_s)
    label = f"{batch:2} at once"
    return [
        Row(f"{label}: all together", rate, "tokens/s"),
        Row(f"{label}: ITL p50", stats.quantile(gaps_ms, 0.5), "ms"),
        Row(f"{label}: ITL p99", stats.quantile(gaps_ms, 0.99), "ms"),
    ]


def _launches(device: Service) -> int:
    url = f"http://{device.ready['metrics_address']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as response:
        lines = response.read().decode().splitlines()
    name = "tpuserve_device_launches_total "
    return int(sum(float(line.split()[1]) for line in lines if line.startswith(name)))
