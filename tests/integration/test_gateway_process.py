"""The gateway as a process: start, signals, addresses that are taken, bad arguments."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PEERS = ("--tokenizer", "127.0.0.1:1", "--device", "127.0.0.1:1")
ANY_PORTS = ("--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")


@contextmanager
def gateway(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", *arguments], stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def log_line(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    assert process.stderr is not None
    for line in process.stderr:
        record: dict[str, Any] = json.loads(line)
        if record["event"] == event:
            return record
    raise AssertionError(f"no log line {event!r}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_starts_without_peers_and_stops_on_a_signal(number: signal.Signals) -> None:
    with gateway(*PEERS, *ANY_PORTS) as process:
        ready = log_line(process, "ready")
        assert ready["grpc"] != ANY_PORTS[1]
        with urllib.request.urlopen(f"http://{ready['http']}/health") as reply:
            assert reply.status == 200
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://{ready['http']}/ready")
        with caught.value as reply:
            assert reply.code == 503
            assert "device 127.0.0.1:1: not connected" in json.load(reply)["reason"]
        request = urllib.request.Request(
            f"http://{ready['http']}/v1/completions", data=b'{"prompt": "x"}'
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        with caught.value as reply:
            assert reply.code == 503
            assert json.load(reply)["error"]["message"] == "no device has connected yet"
        process.send_signal(number)
        assert process.wait(20) == 0


@pytest.mark.parametrize("taken", ["grpc", "http"])
def test_an_address_in_use_is_named(taken: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        arguments = list(ANY_PORTS)
        arguments[arguments.index(f"--{taken}-listen") + 1] = address
        with gateway(*PEERS, *arguments) as process:
            _, errors = process.communicate(timeout=20)
            assert process.returncode == 1
            assert f"error: cannot listen on {address}" in errors
            assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "--tokenizer"),
        ((*PEERS, "--max-waiting", "0"), "0 is not at least 1"),
        ((*PEERS, "--http-listen", "nowhere"), "'nowhere' is not HOST:PORT"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple[str, ...], text: str) -> None:
    with gateway(*arguments) as process:
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 2
        assert text in errors
