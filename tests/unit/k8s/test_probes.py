"""Probes ask what the services answer, and a pod has time to drain."""

from __future__ import annotations

import device_svc.process
import gateway.settings
import tokenizer_svc.settings
from tests.support.manifests import SERVICES, Object, Rendered, container, pod

# Between SIGTERM and SIGKILL beyond the drain itself; libbmlib alone takes a second to unload.
_EXIT_S = 5


def _drain_s(name: str, arguments: list[str]) -> float:
    """How long the service may take to finish its streams after SIGTERM."""
    if name == "tpuserve-gateway":
        return gateway.settings.parse(arguments).drain_grace_s
    if name == "tpuserve-tokenizer":
        return tokenizer_svc.settings.parse(arguments).grace_s
    return device_svc.process.DRAIN_GRACE_S


def test_probes_are_native_grpc(rendered: Rendered) -> None:
    for name, workload in rendered.ours.items():
        each = container(workload)
        (port,) = (p["containerPort"] for p in each["ports"] if p["name"] == "grpc")
        assert each["startupProbe"]["grpc"] == {"port": port, "service": ""}
        assert each["livenessProbe"]["grpc"] == {"port": port, "service": ""}
        assert each["readinessProbe"]["grpc"] == {"port": port, "service": SERVICES[name]}


def test_a_stalled_process_has_a_minute_but_an_unready_one_is_left_out_at_once(
    rendered: Rendered,
) -> None:
    for workload in rendered.ours.values():
        each = container(workload)
        assert _window_s(each["livenessProbe"]) >= 60
        assert _window_s(each["readinessProbe"]) <= 5


def test_a_large_model_has_time_to_load(rendered: Rendered) -> None:
    device = container(rendered.ours["tpuserve-device"])
    assert _window_s(device["startupProbe"]) >= 600


def test_grace_covers_pre_stop_and_drain(rendered: Rendered) -> None:
    for name, workload in rendered.ours.items():
        each = container(workload)
        pre_stop_s = each["lifecycle"]["preStop"]["sleep"]["seconds"]
        grace_s = pod(workload)["terminationGracePeriodSeconds"]
        assert grace_s >= pre_stop_s + _drain_s(name, each["args"]) + _EXIT_S
        # Long enough for the readiness probe to have failed, and for endpoints to follow.
        assert pre_stop_s >= 5


def _window_s(probe: Object) -> int:
    period_s, failures = probe["periodSeconds"], probe["failureThreshold"]
    assert isinstance(period_s, int)
    assert isinstance(failures, int)
    return period_s * failures
