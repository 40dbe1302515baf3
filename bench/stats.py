"""Summaries of samples."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Summary:
    """Of `count` samples, in their unit."""

    count: int
    p50: float
    p90: float
    p99: float
    largest: float


def quantile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least `share` of the samples do not exceed (nearest rank)."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summary(samples: Sequence[float]) -> Summary:
    """Raises ValueError when there are none."""
    if not samples:
        raise ValueError("no samples")
    return Summary(
        len(samples),
        quantile(samples, 0.5),
        quantile(samples, 0.9),
        quantile(samples, 0.99),
        max(samples),
    )


def median(samples: Sequence[float]) -> float:
    return statistics.median(samples)


def mean(samples: Sequence[float]) -> float:
    return statistics.fmean(samples)
