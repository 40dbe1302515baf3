"""The services as processes of their own, started, watched and ended by the benchmark."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

_START_S = 120.0
_STOP_S = 40.0
_POLL_S = 0.02


class ServiceError(RuntimeError):
    """A service did not come up, or failed; the text ends with its log."""


@dataclass(frozen=True, slots=True)
class Service:
    """A running process. `ready` holds the fields of its log line "ready"."""

    name: str
    process: psutil.Popen
    ready: dict[str, Any]

    def cpu_s(self) -> float:
        """User and system time of all its threads since it started."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def rss_bytes(self) -> int:
        return int(self.process.memory_info().rss)


@contextmanager
def service(module: str, arguments: Sequence[str], *, log_directory: Path) -> Iterator[Service]:
    """`python -m MODULE ARGUMENTS`, up while the block runs. Raises ServiceError."""
    log = log_directory / f"{module}.log"
    with log.open("wb") as sink:
        process = psutil.Popen([sys.executable, "-m", module, *arguments], stderr=sink)
    try:
        yield Service(module, process, _wait_ready(module, process, log))
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
        try:
            process.wait(_STOP_S)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(module: str, process: psutil.Popen, log: Path) -> dict[str, Any]:
    deadline_s = time.monotonic() + _START_S
    while time.monotonic() < deadline_s:
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            fields = _json_object(line)
            if fields.get("event") == "ready":
                return fields
        if process.poll() is not None:
            break
        time.sleep(_POLL_S)
    raise ServiceError(f"{module} did not become ready:\n{log.read_text(errors='replace')}")


def _json_object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True, slots=True)
class Stack:
    """Tokenizer, device and gateway; the inner hops are Unix sockets, as on one host."""

    tokenizer: Service
    device: Service
    gateway: Service
    tokenizer_address: str
    device_address: str

    @property
    def address(self) -> str:
        """Of the gateway, for gRPC."""
        return str(self.gateway.ready["grpc"])

    @property
    def http_url(self) -> str:
        return f"http://{self.gateway.ready['http']}"

    @property
    def metrics_urls(self) -> tuple[str, str, str]:
        return (
            f"http://{self.tokenizer.ready['metrics']}/metrics",
            f"http://{self.device.ready['metrics_address']}/metrics",
            f"{self.http_url}/metrics",
        )

    def decode_engine_s(self) -> float:
        """Seconds that the device's engine has spent in decode steps."""
        with urllib.request.urlopen(self.metrics_urls[1], timeout=10) as response:
            text = response.read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "tpuserve_device_step_seconds_sum" and (
                    sample.labels == {"kind": "decode"}
                ):
                    return sample.value
        return 0.0

    @property
    def services(self) -> tuple[Service, Service, Service]:
        return (self.tokenizer, self.device, self.gateway)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Takes the whole stack off the CPUs while the block runs."""
        with ExitStack() as resume:
            for each in self.services:
                each.process.suspend()
                resume.callback(each.process.resume)
            # SIGSTOP takes effect when a process is next about to run.
            while any(each.process.status() != psutil.STATUS_STOPPED for each in self.services):
                time.sleep(_POLL_S)
            yield


@contextmanager
def stack(
    model: Path, *, device_module: str, device_arguments: Sequence[str] = ()
) -> Iterator[Stack]:
    """All three services for the model directory; `device_module` serves tpuserve.v1.Device."""
    with tempfile.TemporaryDirectory(prefix="tpuserve-") as name, ExitStack() as running:
        directory = Path(name)
        tokenizer_address = f"unix:{directory}/tokenizer.sock"
        device_address = f"unix:{directory}/device.sock"

        def start(module: str, *arguments: str) -> Service:
            return running.enter_context(service(module, arguments, log_directory=directory))

        of_model = ("--model", str(model), "--metrics-listen", "127.0.0.1:0")
        tokenizer = start("tokenizer_svc", "--listen", tokenizer_address, *of_model)
        device = start(device_module, "--listen", device_address, *of_model, *device_arguments)
        gateway = start(
            "gateway",
            *("--tokenizer", tokenizer_address, "--device", device_address),
            *("--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"),
        )
        try:
            _wait_serving(gateway)
            yield Stack(tokenizer, device, gateway, tokenizer_address, device_address)
        except grpc.RpcError as error:
            logs = "\n".join(log.read_text(errors="replace") for log in directory.glob("*.log"))
            raise ServiceError(f"a call failed: {error}\n{logs}") from error


def _wait_serving(gateway: Service) -> None:
    """A gateway listens before it has found its peers."""
    request = health_pb2.HealthCheckRequest(service="tpuserve.v1.Generation")
    with grpc.insecure_channel(gateway.ready["grpc"]) as channel:
        # The stub package leaves Watch out.
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(request, timeout=_START_S, wait_for_ready=True)
        for reply in watch:
            if reply.status == health_pb2.HealthCheckResponse.SERVING:
                watch.cancel()
                return
