"""A whole server on this machine: three supervised processes behind two ports."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tpuserve import chips, runtime_library
from tpuserve.cli import children
from tpuserve.cli.child_output import ChildOutput
from tpuserve.cli.children import Device
from tpuserve.cli.errors import CommandError
from tpuserve.cli.supervisor import Child, ChildFailed, Supervisor

_LOG_LEVELS: Final = ("debug", "info", "warning", "error")
_POLL_S: Final = 0.05
_REPORT_EVERY_S: Final = 10.0
_INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the server listens, as a client on this machine reaches it. swaps: whether devices
    change their models when asked.
    """

    models: tuple[str, ...]
    host: str
    grpc_port: int
    http_port: int
    devices: tuple[Device, ...] = ()
    allows_dumps: bool = False
    swaps: bool = False

    @property
    def model(self) -> str:
        """Of several, all names."""
        return ", ".join(self.models)

    @property
    def grpc(self) -> str:
        return f"{_bracketed(self.host)}:{self.grpc_port}"

    @property
    def http(self) -> str:
        return f"http://{_bracketed(self.host)}:{self.http_port}"


OnReady = Callable[[Endpoints, asyncio.Event], Awaitable[None]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(refuse_usage=parser.error)
    parser.add_argument("models", type=Path, nargs="*", metavar="DIR", help="model directories")
    parser.add_argument("--model", type=Path, metavar="DIR", help="the same, for one")
    parser.add_argument(
        "--devices",
        type=chips.chip_list,
        action="append",
        default=[],
        metavar="0,1",
        help="chips as the host numbers them; each group of as many as the model was compiled for "
        "gets a device service (default: one group of the lowest numbers); for several models once "
        "for each, in their order: they may share chips",
    )
    parser.add_argument(
        "--swap-root",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="let `tpuserve swap` load model directories that are this one or below it",
    )
    parser.add_argument("--slots", type=int, help="resident sequences (default: tpuserve.toml)")
    parser.add_argument(
        "--itl-budget-ms",
        type=int,
        metavar="MS",
        help="longest gap between tokens that prefill of others may cause (default: 250)",
    )
    parser.add_argument(
        "--deterministic", action="store_true", help="tokens never depend on load; slower decode"
    )
    parser.add_argument(
        "--runtime", default="auto", help="auto, pcie, soc, emulator, simchip:PROFILE or a path"
    )
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="key of an encrypted bmodel")
    parser.add_argument(
        "--allow-dumps", action="store_true", help="let `tpuserve dump` see what prompts compute"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--grpc-port", type=int, default=50051, help="%(default)s; 0: any free")
    parser.add_argument("--http-port", type=int, default=8000, help="%(default)s; 0: any free")
    parser.add_argument(
        "--metrics-port",
        type=int,
        help="serve the tokenizer's /metrics here and the devices' on the ports behind it",
    )
    parser.add_argument(
        "--log-level", choices=_LOG_LEVELS, default="warning", help="of the services (%(default)s)"
    )
    parser.add_argument(
        "--log-dir", type=Path, help="write the services' logs into files of this directory"
    )


def serve(args: argparse.Namespace, on_ready: OnReady) -> int:
    """Serve until SIGINT or SIGTERM, or until `on_ready` sets the event that it is given.

    Returns 0 after a drain, 130 when a second signal cut the drain short. Raises CommandError for a
    start-up problem, and whatever `on_ready` raises, after all processes have ended.
    """
    try:
        served = children.load_models(directories(args), args.devices)
        runtime_library.find(args.runtime)
    except ValueError as error:
        raise CommandError(str(error)) from error
    grpc_port = _listening_port(args.host, args.grpc_port, "--grpc-port")
    http_port = _listening_port(args.host, args.http_port, "--http-port")
    if grpc_port == http_port:
        raise CommandError(f"--grpc-port and --http-port are both {grpc_port}")
    # A wildcard address listens everywhere but is not one to connect to.
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(args.host, args.host)
    with tempfile.TemporaryDirectory(prefix="tpuserve-") as sockets:
        endpoints = Endpoints(
            *(tuple(each.model.name for each in served), reachable, grpc_port, http_port),
            devices=children.devices_of(served, Path(sockets)),
            allows_dumps=args.allow_dumps,
            swaps=bool(args.swap_root),
        )
        processes = _children(args, endpoints, Path(sockets))
        with _child_output(args) as output:
            try:
                return asyncio.run(_serve(processes, endpoints, output, on_ready))
            except ChildFailed as error:
                raise CommandError(str(error)) from error


def directories(args: argparse.Namespace) -> list[Path]:
    """Of all models that are to be served; none is a wrong use of the command."""
    named = [*args.models, *([] if args.model is None else [args.model])]
    if not named:
        args.refuse_usage("name a model directory")
    return named


def _children(args: argparse.Namespace, endpoints: Endpoints, sockets: Path) -> tuple[Child, ...]:
    listen = _bracketed(args.host)

    def metrics_address(number: int) -> str:
        port = _listening_port(args.host, args.metrics_port + number, "--metrics-port")
        return f"{listen}:{port}"

    gateway = [
        *["--grpc-listen", f"{listen}:{endpoints.grpc_port}"],
        *["--http-listen", f"{listen}:{endpoints.http_port}"],
    ]
    return children.children(args, endpoints.devices, gateway, sockets, metrics_address)


def _child_output(args: argparse.Namespace) -> ChildOutput:
    try:
        return ChildOutput(args.log_dir, verbose=args.log_level in ("debug", "info"))
    except OSError as error:
        raise CommandError(f"--log-dir {args.log_dir}: {error.strerror}") from error


async def _serve(
    processes: tuple[Child, ...], endpoints: Endpoints, output: ChildOutput, on_ready: OnReady
) -> int:
    stop = asyncio.Event()
    supervisor = Supervisor(processes, report=report, output=output)
    killed = False

    def interrupt() -> None:
        nonlocal killed
        if stop.is_set():
            killed = True
            supervisor.kill()
        else:
            report("stopping; once more to kill")
            stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    async with _supervised(supervisor, stop) as running:
        work = asyncio.create_task(_when_ready(supervisor, endpoints, stop, on_ready))
        await asyncio.wait({work, running}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
            await asyncio.wait({running})
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
    return _INTERRUPTED if killed else 0


@contextlib.asynccontextmanager
async def _supervised(
    supervisor: Supervisor, stop: asyncio.Event
) -> AsyncIterator[asyncio.Task[None]]:
    """The supervisor at work; its children have ended when the block has."""
    running = asyncio.create_task(supervisor.run(stop))
    try:
        yield running
    finally:
        stop.set()
        await running


async def _when_ready(
    supervisor: Supervisor, endpoints: Endpoints, stop: asyncio.Event, on_ready: OnReady
) -> None:
    started_s = time.monotonic()
    next_report_s = started_s + _REPORT_EVERY_S
    while not await _is_ready(endpoints):
        if time.monotonic() >= next_report_s:
            next_report_s += _REPORT_EVERY_S
            report(f"still loading after {time.monotonic() - started_s:.0f} s")
        await asyncio.sleep(_POLL_S)
    supervisor.up()
    await on_ready(endpoints, stop)


async def _is_ready(endpoints: Endpoints) -> bool:
    """Whether GET /ready answers 200 and names every model."""
    try:
        reader, writer = await asyncio.open_connection(endpoints.host, endpoints.http_port)
    except OSError:
        return False
    try:
        writer.write(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        reply = await asyncio.wait_for(reader.read(), 5.0)
    except (OSError, asyncio.TimeoutError):
        return False
    finally:
        writer.close()
    head, _, body = reply.partition(b"\r\n\r\n")
    if head.split(b" ")[1:2] != [b"200"]:
        return False
    return set(endpoints.models) <= set(json.loads(body)["models"])


def _listening_port(host: str, port: int, option: str) -> int:
    """The port itself, or a free one for 0. Raises CommandError when it cannot be listened on."""
    if not 0 <= port <= 65535:
        raise CommandError(f"{option} is {port}, must be between 0 and 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As a server does: connections of an earlier run that linger do not matter.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
            chosen: int = probe.getsockname()[1]
    except OSError as error:
        raise CommandError(
            f"cannot listen on {_bracketed(host)}:{port}: {error.strerror}; "
            f"choose another port with {option}"
        ) from error
    return chosen


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def report(text: str) -> None:
    """A line for the person who started the server."""
    with contextlib.suppress(OSError):  # the terminal may be closed
        print(f"tpuserve: {text}", file=sys.stderr, flush=True)
