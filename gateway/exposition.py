"""The gateway's numbers as Prometheus families.

Each number has its own name (`tpuserve_*`, label `model`) and, where vLLM has one with the same
meaning, that name too (`vllm:*`, labels `model_name` and `engine`), so that dashboards, autoscalers
and endpoint pickers made for vLLM work. A gateway is one engine to them: `engine` is "0".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gateway.device_session import DeviceSession
from gateway.metrics import GatewayMetrics, Histogram, ModelMetrics
from gateway.models import Model, ModelRegistry
from tpuserve.output_format import FormatKind

_ENGINE: Final = "0"

# Attribute, own name, vLLM's name, help.
_HISTOGRAMS: Final = (
    (
        "ttft_s",
        "time_to_first_token_seconds",
        "time_to_first_token_seconds",
        "From receipt to the first token written, queueing included.",
    ),
    (
        "itl_s",
        "inter_token_latency_seconds",
        "inter_token_latency_seconds",
        "Gap between two tokens of a completion; a step of k tokens counts k gaps of 1/k.",
    ),
    (
        "tpot_s",
        "time_per_output_token_seconds",
        "request_time_per_output_token_seconds",
        "(Last token - first token) / (tokens - 1) of a finished completion.",
    ),
    (
        "e2e_s",
        "e2e_request_latency_seconds",
        "e2e_request_latency_seconds",
        "From receipt to the end of a finished completion.",
    ),
    (
        "queue_s",
        "request_queue_time_seconds",
        "request_queue_time_seconds",
        "From receipt to a slot on a device.",
    ),
    (
        "prompt_length",
        "request_prompt_tokens",
        "request_prompt_tokens",
        "Prompt tokens of finished completions.",
    ),
    (
        "completion_length",
        "request_generation_tokens",
        "request_generation_tokens",
        "Completion tokens of finished completions.",
    ),
)
_COUNTERS: Final = (
    (
        "prompt_tokens",
        "prompt_tokens",
        "prompt_tokens",
        "Prompt tokens of admitted completions.",
    ),
    ("generation_tokens", "generation_tokens", "generation_tokens", "Tokens that devices sent."),
    (
        "prefix_queries",
        "prefix_cache_queries_tokens",
        "prefix_cache_queries",
        "Prompt tokens looked up in resident KV.",
    ),
    (
        "prefix_hits",
        "prefix_cache_hits_tokens",
        "prefix_cache_hits",
        "Prompt tokens found in resident KV.",
    ),
)
_VLLM_REASONS: Final = {
    "stop": "stop",
    "stop_sequence": "stop",
    "tool_calls": "stop",
    "length": "length",
}

_Row: TypeAlias = tuple[Model, ModelMetrics]


def make_registry(
    models: ModelRegistry, devices: list[DeviceSession], metrics: GatewayMetrics
) -> CollectorRegistry:
    """A registry of its own with the gateway's families and those of the process."""
    registry = CollectorRegistry()
    registry.register(_GatewayCollector(models, devices, metrics))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


class _GatewayCollector(Collector):
    def __init__(
        self, models: ModelRegistry, devices: list[DeviceSession], metrics: GatewayMetrics
    ) -> None:
        self._models = models
        self._devices = devices
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        rows = [(model, model.metrics) for model in self._models]
        yield from _histograms(rows)
        yield from _counters(rows)
        yield from _gauges(rows)
        yield from _device_gauges(self._devices)
        failures = CounterMetricFamily(
            "tpuserve_request_failure",
            "Requests that ended with an error, by status code and whether text was out already.",
            labels=["code", "after_first_byte"],
        )
        for (code, after), count in self._metrics.failures.items():
            failures.add_metric([code, str(after).lower()], count)
        yield failures
        delay = HistogramMetricFamily(
            "tpuserve_gateway_event_loop_delay_seconds",
            "How much later than asked a timer of the event loop fires.",
        )
        _add(delay, [], self._metrics.event_loop_delay_s)
        yield delay


def _histograms(rows: list[_Row]) -> Iterator[Metric]:
    for attribute, own, vllm, text in _HISTOGRAMS:
        mine = HistogramMetricFamily(f"tpuserve_{own}", text, labels=["model"])
        theirs = HistogramMetricFamily(f"vllm:{vllm}", text, labels=["model_name", "engine"])
        for model, metrics in rows:
            histogram: Histogram = getattr(metrics, attribute)
            _add(mine, [model.name], histogram)
            _add(theirs, [model.name, _ENGINE], histogram)
        yield mine
        yield theirs


def _counters(rows: list[_Row]) -> Iterator[Metric]:
    for attribute, own, vllm, text in _COUNTERS:
        mine = CounterMetricFamily(f"tpuserve_{own}", text, labels=["model"])
        theirs = CounterMetricFamily(f"vllm:{vllm}", text, labels=["model_name", "engine"])
        for model, metrics in rows:
            value = getattr(metrics, attribute)
            mine.add_metric([model.name], value)
            theirs.add_metric([model.name, _ENGINE], value)
        yield mine
        yield theirs
    text = "Completions that ended well."
    mine = CounterMetricFamily(
        "tpuserve_request_success", text, labels=["model", "finished_reason"]
    )
    theirs = CounterMetricFamily(
        "vllm:request_success", text, labels=["model_name", "engine", "finished_reason"]
    )
    failovers = CounterMetricFamily(
        "tpuserve_failovers",
        "Completions that went on after their device or tokenizer was lost.",
        labels=["model", "peer"],
    )
    formats = CounterMetricFamily(
        "tpuserve_formatted_prompts",
        "Prompts whose completions had to keep an output format.",
        labels=["model", "kind"],
    )
    for model, metrics in rows:
        for kind in FormatKind:
            formats.add_metric([model.name, kind.value], metrics.formats[kind.value])
        alias = dict.fromkeys(_VLLM_REASONS.values(), 0)
        for reason, their_reason in _VLLM_REASONS.items():
            count = metrics.success[reason]
            mine.add_metric([model.name, reason], count)
            alias[their_reason] += count
        for reason, count in alias.items():
            theirs.add_metric([model.name, _ENGINE, reason], count)
        for peer in ("device", "tokenizer"):
            failovers.add_metric([model.name, peer], metrics.failovers[peer])
    yield mine
    yield theirs
    yield failovers
    yield formats


def _gauges(rows: list[_Row]) -> Iterator[Metric]:
    for name, text in (
        ("num_requests_running", "Completions that hold a slot."),
        ("num_requests_waiting", "Completions that wait for a slot."),
        ("kv_cache_usage", "Share of the KV rows in use, 0 to 1."),
    ):
        suffix = ("_ratio", "_perc") if name == "kv_cache_usage" else ("", "")
        mine = GaugeMetricFamily(f"tpuserve_{name}{suffix[0]}", text, labels=["model"])
        theirs = GaugeMetricFamily(f"vllm:{name}{suffix[1]}", text, labels=["model_name", "engine"])
        for model, _ in rows:
            value = {
                "num_requests_running": float(model.dispatcher.running),
                "num_requests_waiting": float(model.dispatcher.waiting),
                "kv_cache_usage": _kv_usage(model.dispatcher.devices),
            }[name]
            mine.add_metric([model.name], value)
            theirs.add_metric([model.name, _ENGINE], value)
        yield mine
        yield theirs


def _kv_usage(devices: list[DeviceSession]) -> float:
    capacity = sum(device.load.kv_capacity_tokens for device in devices)
    return sum(device.load.kv_tokens for device in devices) / capacity if capacity else 0.0


def _device_gauges(devices: list[DeviceSession]) -> Iterator[Metric]:
    labels = ["device", "address"]
    up = GaugeMetricFamily("tpuserve_gateway_device_up", "1 when it takes requests.", labels=labels)
    running = GaugeMetricFamily(
        "tpuserve_gateway_device_running",
        "Completions that hold a slot, of all gateways.",
        labels=labels,
    )
    waiting = GaugeMetricFamily(
        "tpuserve_gateway_device_waiting", "Completions that wait on the device.", labels=labels
    )
    failures = GaugeMetricFamily(
        "tpuserve_gateway_device_failures", "In a row; two or more pause the device.", labels=labels
    )
    stalls = CounterMetricFamily(
        "tpuserve_gateway_device_stalls", "Times it had work and was silent.", labels=labels
    )
    for device in devices:
        key = [device.facts.name if device.facts else "", device.address]
        up.add_metric(key, float(device.ready))
        running.add_metric(key, device.load.running)
        waiting.add_metric(key, device.load.waiting)
        failures.add_metric(key, device.breaker.failures)
        stalls.add_metric(key, device.stalls)
    yield from (up, running, waiting, failures, stalls)


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    total = 0
    buckets: list[tuple[str, float]] = []
    for edge, count in zip((*histogram.edges, float("inf")), histogram.counts, strict=True):
        total += count
        buckets.append(("+Inf" if edge == float("inf") else repr(edge), total))
    family.add_metric(labels, buckets, histogram.sum)
