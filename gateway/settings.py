"""Command-line arguments of the gateway."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """Addresses are `host:port` or, for peers and gRPC, `unix:/path`."""

    tokenizers: tuple[str, ...]
    devices: tuple[str, ...]
    grpc_listen: str = "127.0.0.1:50051"
    http_listen: str = "127.0.0.1:8000"
    max_waiting: int = 1024
    failover_wait_s: float = 30.0
    stall_timeout_s: float = 20.0
    max_buffered_bytes: int = 1 << 20
    max_body_bytes: int = 20_000_000
    image_hosts: tuple[str, ...] = ()
    drain_grace_s: float = 30.0
    log_level: str = "info"


def parse(argv: Sequence[str] | None = None) -> Settings:
    """Exits with status 2 and a text that names the argument when one is malformed."""
    defaults = Settings((), ())
    parser = argparse.ArgumentParser(
        prog="tpuserve-gateway",
        description="Public gRPC and HTTP API over tokenizer and device services.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--tokenizer",
        action="append",
        required=True,
        metavar="ADDR",
        help="a tokenizer service, host:port or unix:/path; may be repeated",
    )
    parser.add_argument(
        "--device",
        action="append",
        required=True,
        metavar="ADDR",
        help="a device service, host:port or unix:/path; may be repeated",
    )
    parser.add_argument("--grpc-listen", default=defaults.grpc_listen, metavar="ADDR")
    parser.add_argument(
        "--http-listen", default=defaults.http_listen, type=_host_port, metavar="HOST:PORT"
    )
    parser.add_argument(
        "--max-waiting",
        default=defaults.max_waiting,
        type=_positive,
        help="completions of one model that may wait; more are refused",
    )
    parser.add_argument(
        "--failover-wait-s",
        default=defaults.failover_wait_s,
        type=float,
        help="how long a running request waits for a device after its own was lost",
    )
    parser.add_argument(
        "--stall-timeout-s",
        default=defaults.stall_timeout_s,
        type=float,
        help="a device that has work and is silent for so long, or for 8 of its longest steps if "
        "that is longer, is given up until it speaks again",
    )
    parser.add_argument(
        "--max-buffered-bytes",
        default=defaults.max_buffered_bytes,
        type=_positive,
        help="output held for one client that does not read; past it the request is cancelled",
    )
    parser.add_argument(
        "--max-body-bytes",
        default=defaults.max_body_bytes,
        type=_positive,
        help="largest HTTP request body",
    )
    parser.add_argument(
        "--image-host",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="fetch images of image_url parts from this host; may be repeated; without it images "
        "come as data URLs only",
    )
    parser.add_argument(
        "--drain-grace-s",
        default=defaults.drain_grace_s,
        type=float,
        help="how long running requests may take to finish after SIGTERM",
    )
    parser.add_argument(
        "--log-level",
        default=defaults.log_level,
        choices=("debug", "info", "warning", "error"),
    )
    given = vars(parser.parse_args(argv))
    return Settings(
        tokenizers=tuple(given.pop("tokenizer")),
        devices=tuple(given.pop("device")),
        image_hosts=tuple(given.pop("image_host")),
        **given,
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def _host_port(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return text
