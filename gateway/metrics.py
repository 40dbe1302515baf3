"""Numbers that the gateway keeps, cheap enough for every token.

prometheus_client's own histograms cost several microseconds an observation; these cost well under
one and are turned into families only when scraped (see `exposition`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from gateway.request import FinishReason

# Seconds, 1-2-5 from 1 ms: fine enough for queue and token gaps, wide enough for long answers.
LATENCY_EDGES_S: Final = tuple(
    float(f"{base}e{exponent}") for exponent in range(-3, 3) for base in (1, 2, 5)
)
LENGTH_EDGES_TOKENS: Final = tuple(
    float(base * 10**exponent) for exponent in range(6) for base in (1, 2, 5)
)


class Histogram:
    """Counts per bucket; `counts` has one more entry than `edges`, for what is above the last."""

    __slots__ = ("counts", "edges", "sum")

    def __init__(self, edges: tuple[float, ...] = LATENCY_EDGES_S) -> None:
        self.edges = edges
        self.counts = [0] * (len(edges) + 1)
        self.sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Add `value` as if seen `count` times."""
        self.counts[bisect_left(self.edges, value)] += count
        self.sum += value * count


@dataclass(frozen=True, slots=True)
class CompletionRecord:
    """One completion's stamps, `time.monotonic()` seconds; None where it never got that far."""

    arrival_s: float
    accepted_s: float | None
    first_token_s: float | None
    first_written_s: float | None
    last_token_s: float | None
    end_s: float
    prompt_tokens: int
    completion_tokens: int
    reason: FinishReason | None


@dataclass(slots=True)
class ModelMetrics:
    """Everything that is counted for one model."""

    ttft_s: Histogram = field(default_factory=Histogram)
    itl_s: Histogram = field(default_factory=Histogram)
    tpot_s: Histogram = field(default_factory=Histogram)
    e2e_s: Histogram = field(default_factory=Histogram)
    queue_s: Histogram = field(default_factory=Histogram)
    prompt_length: Histogram = field(default_factory=lambda: Histogram(LENGTH_EDGES_TOKENS))
    completion_length: Histogram = field(default_factory=lambda: Histogram(LENGTH_EDGES_TOKENS))
    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    success: Counter[str] = field(default_factory=Counter)
    failovers: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)

    def record(self, completion: CompletionRecord) -> None:
        """Add a completion that reached a device, however it ended."""
        arrival_s = completion.arrival_s
        if completion.accepted_s is not None:
            self.queue_s.observe(completion.accepted_s - arrival_s)
            self.prompt_tokens += completion.prompt_tokens
        if completion.first_written_s is not None:
            self.ttft_s.observe(completion.first_written_s - arrival_s)
        if completion.reason is None:
            return
        self.success[completion.reason.value] += 1
        self.e2e_s.observe(completion.end_s - arrival_s)
        self.prompt_length.observe(completion.prompt_tokens)
        self.completion_length.observe(completion.completion_tokens)
        first_s, last_s = completion.first_token_s, completion.last_token_s
        if first_s is not None and last_s is not None and completion.completion_tokens > 1:
            self.tpot_s.observe((last_s - first_s) / (completion.completion_tokens - 1))


@dataclass(slots=True)
class GatewayMetrics:
    """What belongs to no model. `failures` is keyed by (status code, after first byte)."""

    failures: Counter[tuple[str, bool]] = field(default_factory=Counter)
    event_loop_delay_s: Histogram = field(default_factory=Histogram)
