"""What /metrics of a device says of changes of its model."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

_BUCKETS_S: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0)


class SwapMetrics:
    """done: the new model serves. refused: nothing was touched. failed: the old one serves on."""

    def __init__(self, registry: CollectorRegistry) -> None:
        swaps = Counter(
            "tpuserve_device_swaps", "Changes of the model.", ["outcome"], registry=registry
        )
        self.done, self.refused, self.failed = (
            swaps.labels(outcome) for outcome in ("done", "refused", "failed")
        )
        self.seconds = Histogram(
            "tpuserve_device_swap_seconds",
            "Time from the request for another model until it served.",
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self.pause_seconds = Histogram(
            "tpuserve_device_swap_pause_seconds",
            "Time without a model that was ready to run.",
            buckets=_BUCKETS_S,
            registry=registry,
        )
