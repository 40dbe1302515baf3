"""`--estimate`: what a model would do on the chip, as text."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from compiler.convert import Options
from compiler.environment import Environment
from compiler.errors import CompileError
from compiler.estimate.architecture import Architecture
from compiler.estimate.measure import Costs, Plan, measure
from compiler.estimate.predict import Prediction, first_token_ms, predict

# Decode nets with these row counts are measured, up to the batch that was asked for.
_BATCHES = (1, 4, 8, 16, 32)
_DEFAULT_CHUNK_TOKENS = 128


def plan_of(options: Options) -> Plan:
    """What to measure for a build with `options`; without a batch, sizes up to 16."""
    options.check()
    largest = options.batch if options.batch > 1 else 16
    return Plan(
        seq_tokens=options.seq_tokens,
        chunk_tokens=options.chunk_tokens or min(_DEFAULT_CHUNK_TOKENS, options.seq_tokens),
        batches=(*(size for size in _BATCHES if size < largest), largest),
        quantize=options.quantize,
        head=options.head_quantization,
        group_size=options.group_size,
    )


def estimate(config: Path, plan: Plan, environment: Environment) -> str:
    """The report for the model whose config.json is `config` or lies in it. Raises CompileError."""
    architecture = Architecture.of(_read_config(config))
    if plan.chunk_tokens > plan.seq_tokens:
        raise CompileError(f"chunk is {plan.chunk_tokens}, must be at most seq ({plan.seq_tokens})")
    work = Path(tempfile.mkdtemp(prefix="tpuserve-estimate-"))
    try:
        costs = measure(architecture, plan, environment, work)
    finally:
        shutil.rmtree(work)
    return report(architecture, plan, costs)


def report(architecture: Architecture, plan: Plan, costs: Costs) -> str:
    lines = [
        f"{architecture.layers} layers of {plan.quantize}, head {plan.head}, "
        f"context {plan.seq_tokens}, prefill chunk {plan.chunk_tokens} "
        "(on-chip time: without launches, PCIe and sampling)",
        "",
        *_decode_table(predict(architecture, plan, costs)),
        "",
        f"prefill: {costs.chunk.ms:.2f} ms per layer and chunk, "
        f"{costs.chunk_behind.ms:.2f} behind a full context",
        *_prompt_lines(architecture, plan, costs),
    ]
    return "\n".join(lines)


def _decode_table(predictions: Sequence[Prediction]) -> list[str]:
    lines = ["batch  ms/layer  ms/step    tok/s  memory"]
    for p in predictions:
        note = "" if p.fits else "  does not fit one chip"
        lines.append(
            f"{p.batch:5d}  {p.layer_ms:8.2f}  {p.step_ms:7.1f}  {p.tokens_per_s:7.1f}  "
            f"{p.memory_bytes / 1e9:4.1f} GB{note}"
        )
    return lines


def _prompt_lines(architecture: Architecture, plan: Plan, costs: Costs) -> list[str]:
    quarters = (plan.seq_tokens // 4, plan.seq_tokens // 2, plan.seq_tokens)
    prompts = sorted({max(1, prompt) for prompt in (plan.chunk_tokens, *quarters)})
    return [
        f"first token of a {prompt}-token prompt: "
        f"{first_token_ms(architecture, plan, costs, prompt):.0f} ms"
        for prompt in prompts
    ]


def _read_config(path: Path) -> dict[str, object]:
    file = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CompileError(f"{file}: {error.strerror}") from None
    except ValueError as error:
        raise CompileError(f"{file} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise CompileError(f"{file} holds no JSON object")
    return config
