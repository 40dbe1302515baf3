"""A memory budget as rows of a table."""

from __future__ import annotations

from tpuserve.bmodel import MemoryBudget
from tpuserve.cli import text


def memory_rows(memory: MemoryBudget, slots_asked: int | None) -> list[tuple[str, ...]]:
    """slots_asked: what tpuserve.toml asks for."""
    batch = memory.context_slots
    times = "for each slot" if batch == 1 else f"once, for up to {batch} slots"
    rows: list[tuple[str, ...]] = [
        ("weights", text.size(memory.weights_bytes), "once"),
        ("scratch", text.size(memory.neuron_bytes), "once"),
        *([("image states", text.size(memory.image_bytes), "once")] if memory.image_bytes else []),
        ("inputs, outputs and KV", text.size(memory.context_io_bytes), times),
        ("instructions, at most", text.size(memory.context_instruction_bytes), times),
    ]
    totals = {1, 2, 4, 8, 16, slots_asked or 1}
    if batch > 1:
        totals = {batch, max(batch, slots_asked or 1)}
    for slots in sorted(totals):
        note = "as tpuserve.toml asks" if slots == slots_asked else ""
        name = f"all, {slots} slot{'s' if slots > 1 else ''}"
        rows.append((name, text.size(memory.total_bytes(slots)), note))
    return rows
