"""What /metrics of a device says of output formats."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from tpuserve.output_format import FormatKind

_BUCKETS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class FormatMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        asked = Counter(
            "tpuserve_device_formats",
            "Requests with an output format.",
            ["kind"],
            registry=registry,
        )
        self._compile_s = Histogram(
            "tpuserve_device_format_compile_seconds",
            "Time to compile an output format that was not known.",
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._asked = {kind: asked.labels(kind.value) for kind in FormatKind}

    def asked(self, kind: FormatKind) -> None:
        self._asked[kind].inc()

    def compiled(self, elapsed_s: float) -> None:
        self._compile_s.observe(elapsed_s)
