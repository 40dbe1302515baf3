"""Compiles the nets that an estimate needs and reads their costs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.environment import Environment
from compiler.estimate.architecture import Architecture
from compiler.estimate.profile import NetCost, read_cost

_DRIVER = Path(__file__).resolve().parent / "driver.py"

# The head's cost is proportional to the vocabulary (all of it is reading weights): a slice will do.
VOCAB_SLICE = 8192


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be built. Lengths in tokens; batches are row counts of the decode net.

    head: quantization of lm_head.
    """

    seq_tokens: int
    chunk_tokens: int
    batches: tuple[int, ...]
    quantize: str
    head: str
    group_size: int = 64


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one layer and of the whole head, by number of rows.

    chunk: prefill of one chunk, nothing before it. chunk_behind: the same behind a full context;
        equal to `chunk` when one chunk is the whole context.
    """

    chunk: NetCost
    chunk_behind: NetCost
    decode: dict[int, NetCost]
    head_ms: dict[int, float]
    head_weight_bytes: int


def measure(architecture: Architecture, plan: Plan, environment: Environment, work: Path) -> Costs:
    """Compile in the empty directory `work`. Raises CompileError."""
    vocab = min(architecture.vocab, VOCAB_SLICE)
    rows = sorted(set(plan.batches), reverse=True)
    job = {
        "output": str(work / "nets"),
        "config": architecture.layer_config(vocab),
        "shapes": architecture.layer_shapes(vocab),
        "seq": plan.seq_tokens,
        "chunk": plan.chunk_tokens,
        "rows": rows,
        "quantize": plan.quantize,
        "head": plan.head,
        "group_size": plan.group_size,
        "jobs": 2,
    }
    path = work / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    environment.run(["python", str(_DRIVER), str(path)], work / "compile.log", work)
    return collect(work / "nets", rows, architecture.vocab / vocab)


def collect(nets: Path, rows: Sequence[int], vocab_scale: float) -> Costs:
    """Costs from the directories that the driver left; `rows` is sorted, most first."""
    head_rows = sorted({1, *rows}, reverse=True)
    heads = [read_cost(nets / numbered("lm_head", i)) for i in range(len(head_rows))]
    chunk = read_cost(nets / "block_0")
    behind = nets / "block_kv_0"
    return Costs(
        chunk=chunk,
        chunk_behind=read_cost(behind) if behind.is_dir() else chunk,
        decode={
            count: read_cost(nets / numbered("block_cache_0", i)) for i, count in enumerate(rows)
        },
        head_ms={
            count: head.ms * vocab_scale for count, head in zip(head_rows, heads, strict=True)
        },
        head_weight_bytes=round(heads[0].weight_bytes * vocab_scale),
    )


def numbered(net: str, number: int) -> str:
    """Directory of a net's shape variant."""
    return net if number == 0 else f"{net}_{number}"
