"""The table of a card's predicted speed, from cycle profiles that were made before."""

from __future__ import annotations

import json
from pathlib import Path

from bench.report import Row, Section

_PROFILE = Path(__file__).with_name("qwen2.5-7b.json")

METHOD = (
    "Layers times the compiler's cycle model of one layer, plus the head, all rows busy at the "
    "full context; bench/qwen2.5-7b.json has the profiles and how to make them again. Launching, "
    "copies and sampling are not in it: docs/estimate.md says how far it is off."
)


def run() -> Section:
    profile = json.loads(_PROFILE.read_text(encoding="utf-8"))
    rows: list[Row] = []
    for context in profile["context"]:
        tokens = context["tokens"]
        for batch, layer_ms in zip(profile["rows"], context["layer_ms"], strict=True):
            head_ms = profile["head_ms"][profile["rows"].index(batch)]
            step_ms = profile["layers"] * layer_ms + head_ms
            label = f"context {tokens}, {batch:2} rows"
            rows.append(Row(f"{label}: step", step_ms, "ms"))
            rows.append(Row(f"{label}: all together", 1000 * batch / step_ms, "tokens/s"))
    for chunk_tokens, layer_ms in zip(
        profile["prefill"]["chunk_tokens"], profile["prefill"]["layer_ms"], strict=True
    ):
        chunk_ms = profile["layers"] * layer_ms
        rows.append(Row(f"prefill chunk of {chunk_tokens}", chunk_ms, "ms"))
    title = "Qwen2.5-7B, 4-bit weights, 8-bit head, on one BM1684X: PREDICTED"
    return Section("predicted", title, METHOD, tuple(rows))
