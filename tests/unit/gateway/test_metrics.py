"""What /metrics says, read with the Prometheus parser."""

from __future__ import annotations

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import Histogram
from tests.unit.gateway.conftest import World
from tests.unit.gateway.fakes import eventually
from tpuserve.v1 import generation_pb2


async def scrape(world: World) -> dict[str, Metric]:
    async with world.http.get(f"{world.url}/metrics") as response:
        assert response.status == 200
        return {m.name: m for m in text_string_to_metric_families(await response.text())}


def value(families: dict[str, Metric], sample: str, **labels: str) -> float:
    found = [
        s.value
        for family in families.values()
        for s in family.samples
        if s.name == sample and labels.items() <= s.labels.items()
    ]
    assert len(found) == 1, (sample, labels, found)
    return found[0]


def test_a_histogram_counts_up_to_and_including_its_edges() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe(1.0)
    histogram.observe(1.5, 3)
    histogram.observe(9.0)
    assert histogram.counts == [1, 3, 1]
    assert histogram.sum == 14.5


async def test_requests_are_counted(world: World) -> None:
    request = generation_pb2.GenerateRequest(text="abcd", n=2)
    await world.stub.GenerateOnce(request)
    metrics = world.gateway.registry.resolve("").metrics
    await eventually(lambda: metrics.success["stop"] == 2)
    families = await scrape(world)
    for prefix, labels in (
        ("tpuserve_", {"model": "fake"}),
        ("vllm:", {"model_name": "fake", "engine": "0"}),
    ):
        assert value(families, f"{prefix}prompt_tokens_total", **labels) == 8
        assert value(families, f"{prefix}generation_tokens_total", **labels) == 10
        assert value(families, f"{prefix}time_to_first_token_seconds_count", **labels) == 2
        assert value(families, f"{prefix}inter_token_latency_seconds_count", **labels) == 8
        assert value(families, f"{prefix}e2e_request_latency_seconds_count", **labels) == 2
        assert value(families, f"{prefix}request_queue_time_seconds_count", **labels) == 2
        assert value(families, f"{prefix}request_generation_tokens_sum", **labels) == 10
        assert value(families, f"{prefix}num_requests_running", **labels) == 0
        assert value(families, f"{prefix}num_requests_waiting", **labels) == 0
        success = f"{prefix}request_success_total"
        assert value(families, success, finished_reason="stop", **labels) == 2
        assert value(families, success, finished_reason="length", **labels) == 0
        ttft = f"{prefix}time_to_first_token_seconds_bucket"
        assert value(families, ttft, le="+Inf", **labels) == 2
        assert value(families, ttft, le="0.001", **labels) >= 0
    vllm = {"model_name": "fake", "engine": "0"}
    assert value(families, "vllm:request_time_per_output_token_seconds_count", **vllm) == 2
    assert value(families, "vllm:prefix_cache_queries_total", **vllm) == 8
    assert value(families, "vllm:prefix_cache_hits_total", **vllm) == 2
    assert value(families, "tpuserve_gateway_device_up", device="dev-0") == 1


async def test_running_waiting_and_kv_are_live(world: World) -> None:
    world.device.hold()
    calls = [
        world.stub.GenerateOnce(generation_pb2.GenerateRequest(text=f"long{i}")) for i in range(7)
    ]
    dispatcher = world.gateway.registry.resolve("").dispatcher
    await eventually(lambda: (dispatcher.running, dispatcher.waiting) == (4, 3))
    families = await scrape(world)
    assert value(families, "vllm:num_requests_running", model_name="fake") == 4
    assert value(families, "vllm:num_requests_waiting", model_name="fake") == 3
    assert value(families, "vllm:kv_cache_usage_perc", model_name="fake") == 0.4
    assert value(families, "tpuserve_kv_cache_usage_ratio", model="fake") == 0.4
    assert value(families, "tpuserve_gateway_device_running", device="dev-0") == 4
    for call in calls:
        call.cancel()
    await eventually(lambda: world.gateway.metrics.failures["CANCELLED", False] == 7)
    await eventually(lambda: not world.device.running)
    families = await scrape(world)
    assert value(families, "vllm:kv_cache_usage_perc", model_name="fake") == 0
    failures = "tpuserve_request_failure_total"
    assert value(families, failures, code="CANCELLED", after_first_byte="false") == 7
