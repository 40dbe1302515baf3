from __future__ import annotations

from prometheus_client import CollectorRegistry

from device_svc.engine_api import ChipReading, EngineFailure
from device_svc.metrics import ChipCollector, LoadCollector, StepMetrics
from device_svc.request import Accepted, Emission, Finish, Report
from device_svc.sessions import Load


def test_steps_are_counted_by_kind() -> None:
    registry = CollectorRegistry()
    metrics = StepMetrics(registry)
    metrics.observe(Report(1, "prefill", 0.04, prefill_tokens=20, launches=7))
    metrics.observe(Report(2, "decode", 0.0015, decode_tokens=3, launches=12))
    metrics.observe(Report(2, emissions=[Emission(1, finish=Finish.CANCELLED)], launches=12))
    value = registry.get_sample_value
    assert value("tpuserve_device_steps_total") == 2
    assert value("tpuserve_device_launches_total") == 12
    assert value("tpuserve_device_tokens_total", {"kind": "prefill"}) == 20
    assert value("tpuserve_device_tokens_total", {"kind": "decode"}) == 3
    assert value("tpuserve_device_requests_total", {"finish": "cancelled"}) == 1
    assert value("tpuserve_device_requests_total", {"finish": "stop"}) == 0
    step = "tpuserve_device_step_seconds"
    assert value(f"{step}_sum", {"kind": "prefill"}) == 0.04
    assert value(f"{step}_bucket", {"kind": "decode", "le": "0.001"}) == 0
    assert value(f"{step}_bucket", {"kind": "decode", "le": "0.002"}) == 1


def test_busy_time_is_counted_for_each_chip() -> None:
    registry = CollectorRegistry()
    metrics = StepMetrics(registry, (2, 5))
    metrics.observe(Report(1, "prefill", 0.5, chips_busy_s=(0.5, 0.25)))
    metrics.observe(Report(2, "decode", 0.5, chips_busy_s=(0.75, 1.0)))
    name = "tpuserve_chip_busy_seconds_total"
    assert registry.get_sample_value(name, {"chip": "2"}) == 0.75
    assert registry.get_sample_value(name, {"chip": "5"}) == 1.0


def test_counters_go_on_over_a_change_of_the_engine() -> None:
    registry = CollectorRegistry()
    metrics = StepMetrics(registry, (0,))
    metrics.observe(Report(1, "prefill", 0.5, launches=7, chips_busy_s=(0.5,)))
    metrics.engine_changed()
    metrics.observe(Report(2, "prefill", 0.25, launches=5, chips_busy_s=(0.25,)))
    assert registry.get_sample_value("tpuserve_device_launches_total") == 12
    assert registry.get_sample_value("tpuserve_chip_busy_seconds_total", {"chip": "0"}) == 0.75


def test_prefix_hits_and_preemptions_are_counted() -> None:
    registry = CollectorRegistry()
    metrics = StepMetrics(registry)
    accepted = [Accepted(1, 0, 128), Accepted(2, 1, 0)]
    metrics.observe(Report(1, accepted=accepted, queried_tokens=200, preemptions=2, saved_bytes=64))
    metrics.observe(Report(2, accepted=[Accepted(3, 0, 64)], queried_tokens=70))
    value = registry.get_sample_value
    assert value("tpuserve_device_prefix_queried_tokens_total") == 270
    assert value("tpuserve_device_prefix_hit_tokens_total") == 192
    assert value("tpuserve_device_preemptions_total") == 2
    assert value("tpuserve_device_preempted_bytes") == 0


def test_load_is_read_when_it_is_asked_for() -> None:
    registry = CollectorRegistry()
    loads = [Load(1, 2, 3, 4, 5), Load(0, 0, 4, 0, 5)]
    registry.register(LoadCollector(lambda: loads[0], slots=4))
    value = registry.get_sample_value
    assert value("tpuserve_device_running") == 1
    assert value("tpuserve_device_waiting") == 2
    assert value("tpuserve_device_kv_tokens") == 4
    assert value("tpuserve_device_kv_capacity_tokens") == 5
    assert value("tpuserve_device_slots") == 4
    loads.pop(0)
    assert value("tpuserve_device_running") == 0


def test_chips_are_asked_seldom_and_missing_readings_are_left_out() -> None:
    asked: list[int] = []
    now_s = [100.0]

    def read(chip: int) -> ChipReading:
        asked.append(chip)
        if chip == 1:
            raise EngineFailure("chip 1 is gone")
        return ChipReading(chip, temperature_celsius=41.0 + len(asked))

    registry = CollectorRegistry()
    registry.register(ChipCollector(read, (0, 1), clock=lambda: now_s[0]))
    asked.clear()
    now_s[0] += 15
    value = registry.get_sample_value
    assert value("tpuserve_chip_up", {"chip": "0"}) == 1
    assert value("tpuserve_chip_up", {"chip": "1"}) == 0
    assert value("tpuserve_chip_temperature_celsius", {"chip": "0"}) == 42
    assert value("tpuserve_chip_temperature_celsius", {"chip": "1"}) is None
    assert value("tpuserve_chip_power_watts", {"chip": "0"}) is None
    now_s[0] += 14.9
    value("tpuserve_chip_up", {"chip": "0"})
    assert asked == [0, 1]
    now_s[0] += 0.1
    value("tpuserve_chip_up", {"chip": "0"})
    assert asked == [0, 1, 0, 1]
