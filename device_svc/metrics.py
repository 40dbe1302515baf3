"""What /metrics of a device says: counters fed by reports, gauges and chip readings on demand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from device_svc.engine_api import ChipReading, EngineFailure
from device_svc.request import Finish, Report
from device_svc.sessions import Load

_STEP_BUCKETS_S: Final = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
_CHIP_GAUGES: Final = (
    ("temperature_celsius", "Temperature of the chip."),
    ("power_watts", "Power drawn by the chip."),
    ("utilisation_ratio", "Share of time that the chip computed, 0 to 1."),
    ("memory_used_bytes", "Device memory in use."),
    ("memory_total_bytes", "Device memory."),
    ("clock_hz", "Clock of the tensor unit."),
)
_CHIP_CACHE_S: Final = 15.0


class StepMetrics:
    """Counters and histograms. Lives on the event loop; scrapes may come from another thread."""

    def __init__(self, registry: CollectorRegistry, chips: Sequence[int] = ()) -> None:
        """`chips`: of the group, as the host numbers them."""
        self._steps = Counter(
            "tpuserve_device_steps", "Steps run by the scheduler.", registry=registry
        )
        seconds = Histogram(
            "tpuserve_device_step_seconds",
            "Time that a step spent in the engine.",
            ["kind"],
            buckets=_STEP_BUCKETS_S,
            registry=registry,
        )
        tokens = Counter(
            "tpuserve_device_tokens",
            "Tokens put into the KV, replayed ones included.",
            ["kind"],
            registry=registry,
        )
        requests = Counter(
            "tpuserve_device_requests", "Requests that ended.", ["finish"], registry=registry
        )
        self._queried_tokens = Counter(
            "tpuserve_device_prefix_queried_tokens",
            "Prompt tokens that were looked up in the prefix cache.",
            registry=registry,
        )
        self._hit_tokens = Counter(
            "tpuserve_device_prefix_hit_tokens",
            "Prompt tokens whose KV rows were resident already.",
            registry=registry,
        )
        self._preemptions = Counter(
            "tpuserve_device_preemptions",
            "Times that a request lost its slot to one of higher priority.",
            registry=registry,
        )
        self._saved_bytes = Gauge(
            "tpuserve_device_preempted_bytes",
            "Host memory that holds the KV rows of preempted requests.",
            registry=registry,
        )
        self._launches = Counter("tpuserve_device_launches", "Nets launched.", registry=registry)
        busy = Counter(
            "tpuserve_chip_busy_seconds",
            "Time in which the chip had work, from a step's inputs to its outputs.",
            ["chip"],
            registry=registry,
        )
        self._chips_busy = [busy.labels(str(chip)) for chip in chips]
        self._chips_busy_seen_s = [0.0] * len(chips)
        self._seconds = {kind: seconds.labels(kind) for kind in ("prefill", "decode")}
        self._tokens = {kind: tokens.labels(kind) for kind in ("prefill", "decode")}
        self._requests = {finish: requests.labels(finish.value) for finish in Finish}
        self._launches_seen = 0

    def engine_changed(self) -> None:
        """Another engine counts its launches and its chips' busy time from 0."""
        self._launches_seen = 0
        self._chips_busy_seen_s = [0.0] * len(self._chips_busy)

    def observe(self, report: Report) -> None:
        if report.kind is not None:
            self._steps.inc()
            self._seconds[report.kind].observe(report.engine_s)
            self._tokens[report.kind].inc(report.prefill_tokens or report.decode_tokens)
        self._queried_tokens.inc(report.queried_tokens)
        self._hit_tokens.inc(sum(accepted.cached_tokens for accepted in report.accepted))
        self._preemptions.inc(report.preemptions)
        self._saved_bytes.set(report.saved_bytes)
        for emission in report.emissions:
            if emission.finish is not None:
                self._requests[emission.finish].inc()
        self._launches.inc(report.launches - self._launches_seen)
        self._launches_seen = report.launches
        for place, busy_s in enumerate(report.chips_busy_s):
            self._chips_busy[place].inc(busy_s - self._chips_busy_seen_s[place])
            self._chips_busy_seen_s[place] = busy_s


class LoadCollector(Collector):
    """Gauges read at the time of the scrape."""

    def __init__(self, read: Callable[[], Load], *, slots: int) -> None:
        self._read = read
        self._slots = slots

    def collect(self) -> Iterator[GaugeMetricFamily]:
        load = self._read()
        for name, text, value in (
            ("running", "Requests that hold a slot.", load.running),
            ("waiting", "Requests that wait for a slot.", load.waiting),
            ("slots", "Slots of the device.", self._slots),
            ("kv_tokens", "KV rows in use, in tokens.", load.kv_tokens),
            ("kv_capacity_tokens", "KV rows of all slots, in tokens.", load.kv_capacity_tokens),
        ):
            yield GaugeMetricFamily(f"tpuserve_device_{name}", text, value)


class ChipCollector(Collector):
    """Chip readings, asked for at most every 15 s. A reading that a driver lacks is left out."""

    def __init__(
        self,
        read: Callable[[int], ChipReading],
        chips: Sequence[int],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._chips = tuple(chips)
        self._clock = clock
        self._lock = threading.Lock()
        self._readings: dict[int, ChipReading | None] = {}
        self._read_s: float | None = None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        readings = self._current()
        up = GaugeMetricFamily(
            "tpuserve_chip_up", "Whether the chip answers: 1 or 0.", labels=["chip"]
        )
        for chip, reading in readings.items():
            up.add_metric([str(chip)], float(reading is not None))
        yield up
        for name, text in _CHIP_GAUGES:
            family = GaugeMetricFamily(f"tpuserve_chip_{name}", text, labels=["chip"])
            for chip, reading in readings.items():
                value = getattr(reading, name) if reading is not None else None
                if value is not None:
                    family.add_metric([str(chip)], value)
            yield family

    def _current(self) -> dict[int, ChipReading | None]:
        with self._lock:
            now_s = self._clock()
            if self._read_s is None or now_s - self._read_s >= _CHIP_CACHE_S:
                self._readings = {chip: self._read_one(chip) for chip in self._chips}
                self._read_s = now_s
            return self._readings

    def _read_one(self, chip: int) -> ChipReading | None:
        try:
            return self._read(chip)
        except EngineFailure:
            return None
