"""Rendered overlays as plain mappings, and the questions that the tests ask of them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support import tools

ROOT: Final = Path(__file__).resolve().parents[2]
K8S: Final = ROOT / "k8s"
OVERLAYS: Final = ("emulator", "pcie")
# Every pod that runs our code, by its name, with the service that its gRPC port serves.
SERVICES: Final = {
    "tpuserve-gateway": "tpuserve.v1.Generation",
    "tpuserve-tokenizer": "tpuserve.v1.Tokenizer",
    "tpuserve-device": "tpuserve.v1.Device",
}
WORKLOADS: Final = ("Deployment", "StatefulSet", "DaemonSet")

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Rendered:
    """What `kubectl apply -k` would send."""

    overlay: str
    objects: tuple[Object, ...]

    def of_kind(self, *kinds: str) -> Iterator[Object]:
        return (o for o in self.objects if o["kind"] in kinds)

    def get(self, kind: str, name: str) -> Object:
        return next(o for o in self.of_kind(kind) if o["metadata"]["name"] == name)

    @cached_property
    def workloads(self) -> dict[str, Object]:
        return {o["metadata"]["name"]: o for o in self.of_kind(*WORKLOADS)}

    @cached_property
    def ours(self) -> dict[str, Object]:
        return {name: o for name, o in self.workloads.items() if name in SERVICES}


def render(directory: Path) -> tuple[Object, ...]:
    """The objects of a kustomization directory. Needs kubectl."""
    kubectl = tools.require("kubectl", package="the Kubernetes project, or Debian 13 and later")
    done = subprocess.run(
        [kubectl, "kustomize", str(directory)], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    # A deprecated field is only warned about.
    assert "Warning" not in done.stderr, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def pod(workload: Object) -> Object:
    spec: Object = workload["spec"]["template"]["spec"]
    return spec


def container(workload: Object) -> Object:
    """The only container."""
    (only,) = pod(workload)["containers"]
    result: Object = only
    return result


def argument(workload: Object, flag: str) -> list[str]:
    """The values of every `--flag=value`, in order."""
    prefix = f"{flag}="
    return [a.removeprefix(prefix) for a in container(workload)["args"] if a.startswith(prefix)]
