"""From the costs of one layer to tokens per second, time to first token and memory."""

from dataclasses import dataclass

from compiler.estimate.architecture import Architecture
from compiler.estimate.measure import Costs, Plan

# Device memory of one BM1684X chip on a PCIe card, as its driver reports it.
CHIP_MEMORY_BYTES = 14678 << 20


@dataclass(frozen=True, slots=True)
class Prediction:
    """For one batch size, all slots busy. Launches, transfers over PCIe and sampling are not in it.

    step_ms: one decode step. tokens_per_s: of all rows together.
    memory_bytes: weights, KV of all slots, commands and scratch.
    """

    batch: int
    layer_ms: float
    step_ms: float
    tokens_per_s: float
    memory_bytes: int

    @property
    def fits(self) -> bool:
        return self.memory_bytes <= CHIP_MEMORY_BYTES


def predict(architecture: Architecture, plan: Plan, costs: Costs) -> list[Prediction]:
    """One prediction per batch size of the plan, ascending."""
    return [_one(architecture, plan, costs, batch) for batch in sorted(set(plan.batches))]


def first_token_ms(
    architecture: Architecture, plan: Plan, costs: Costs, prompt_tokens: int
) -> float:
    """Prefill of a prompt in whole chunks and the head, with nothing else on the chip.

    A chunk behind a context costs between the two measured chunks, linearly in what is before it.
    """
    chunks = -(-prompt_tokens // plan.chunk_tokens)
    layer_ms = 0.0
    for chunk in range(chunks):
        share = min(1.0, chunk * plan.chunk_tokens / plan.seq_tokens)
        layer_ms += costs.chunk.ms + share * (costs.chunk_behind.ms - costs.chunk.ms)
    return layer_ms * architecture.layers + costs.head_ms[1]


def _one(architecture: Architecture, plan: Plan, costs: Costs, batch: int) -> Prediction:
    layer = costs.decode[batch]
    step_ms = layer.ms * architecture.layers + costs.head_ms[batch]
    element_bytes = 2
    kv_bytes = architecture.kv_elements_per_token * element_bytes * plan.seq_tokens * batch
    weights_bytes = (
        layer.weight_bytes * architecture.layers
        + costs.head_weight_bytes
        + architecture.vocab * architecture.hidden * element_bytes
    )
    nets = (layer, costs.chunk, costs.chunk_behind)
    commands_bytes = sum(net.instruction_bytes for net in nets) * architecture.layers
    scratch_bytes = max(net.scratch_bytes for net in nets)
    return Prediction(
        batch=batch,
        layer_ms=layer.ms,
        step_ms=step_ms,
        tokens_per_s=batch * 1000 / step_ms,
        memory_bytes=weights_bytes + kv_bytes + commands_bytes + scratch_bytes,
    )
