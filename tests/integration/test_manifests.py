"""The manifests against the running services: probes are answered, arguments are understood."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.processes import Stack
from tests.support.manifests import SERVICES, Rendered, container

PACKAGES = {
    "tpuserve-gateway": "gateway",
    "tpuserve-tokenizer": "tokenizer_svc",
    "tpuserve-device": "device_svc",
}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_probes_are_answered(stack: Stack, rendered: Rendered, name: str) -> None:
    address = {
        "tpuserve-gateway": stack.address,
        "tpuserve-tokenizer": stack.tokenizer_address,
        "tpuserve-device": stack.device_address,
    }[name]
    each = container(rendered.ours[name])
    with grpc.insecure_channel(address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            request = health_pb2.HealthCheckRequest(service=each[probe]["grpc"]["service"])
            # An unknown name would raise NOT_FOUND.
            reply = health.Check(request, timeout=each[probe].get("timeoutSeconds", 1))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_arguments_are_understood(rendered: Rendered, name: str) -> None:
    stranger = "--not-an-argument"
    arguments = [*container(rendered.ours[name])["args"], stranger]
    done = subprocess.run(
        [sys.executable, "-m", PACKAGES[name], *arguments],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 2
    # The parser lists all that it does not know: it is this one alone.
    assert done.stderr.splitlines()[-1].endswith(f"unrecognized arguments: {stranger}")
