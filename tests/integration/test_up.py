"""`tpuserve up` as a user runs it, on the emulator: real processes, real ports."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.support.supervised import ANY_PORTS, CHIPS2, MODEL, ROOT, SCRIPT, Up, up
from tpuserve import errors
from tpuserve.client import Client, Finished, FinishReason, Message, Options

QUESTION = [Message("user", "What is a BM1684X?")]
OPTIONS = Options(max_tokens=8, temperature=0)


def failed(*arguments: str) -> str:
    """stderr of an `up` that must refuse to start."""
    command = [sys.executable, "-c", SCRIPT, "up", *arguments]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=25
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    return result.stderr


def gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert alive == []


def test_serves_survives_a_dead_device_and_drains(tmp_path: Path) -> None:
    with up(tmp_path, "--model", str(MODEL)) as server:
        address = server.wait_for(r"gRPC   (\S+)").group(1)
        http = server.wait_for(r"HTTP   (\S+)/v1").group(1)
        with Client(address) as client:
            before = client.chat_once(QUESTION, OPTIONS)
            assert before.usage.completion_tokens > 0
            server.child("device_svc").kill()
            server.wait_for(r"device was killed by SIGKILL.*; restarting in 0.5 s")
            after = answer_again(client)
            assert after == before.completions[0].token_ids
        with urllib.request.urlopen(f"{http}/metrics", timeout=10) as metrics:
            assert b"tpuserve_" in metrics.read()
        children = psutil.Process(server.process.pid).children()
        assert len(children) == 3
        assert finish_reason_when_stopped(server, address) is FinishReason.LENGTH
        assert server.process.wait(20) == 0
        gone(children)
    assert "gateway was" not in server.log
    assert "tokenizer was" not in server.log


def finish_reason_when_stopped(server: Up, address: str) -> FinishReason:
    """How a stream ends that runs when the user types Ctrl-C."""
    reason = FinishReason.UNKNOWN
    with Client(address) as client:
        stream = client.chat(QUESTION, Options(max_tokens=60, temperature=0, ignore_eos=True))
        for position, chunk in enumerate(stream):
            if position == 1:
                server.process.send_signal(signal.SIGINT)
            if isinstance(chunk, Finished):
                reason = chunk.reason
    return reason


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    with up(tmp_path, "--model", str(MODEL)) as server:
        address = server.wait_for(r"gRPC   (\S+)").group(1)
        children = psutil.Process(server.process.pid).children()
        with Client(address) as client:
            stream = client.chat(QUESTION, Options(max_tokens=400, ignore_eos=True))
            next(stream)
            server.process.send_signal(signal.SIGTERM)
            server.wait_for("once more to kill")
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(10) == 130
            gone(children)
            with pytest.raises(errors.TpuserveError):
                list(stream)


def answer_again(client: Client) -> tuple[int, ...]:
    """The answer, once the restarted device is found."""
    deadline_s = time.monotonic() + 20
    while True:
        try:
            return client.chat_once(QUESTION, OPTIONS).completions[0].token_ids
        except errors.Unavailable:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)


def test_children_end_when_up_is_killed(tmp_path: Path) -> None:
    with up(tmp_path, "--model", str(MODEL), "--log-dir", str(tmp_path / "logs")) as server:
        server.wait_for("is ready")
        children = psutil.Process(server.process.pid).children()
        assert len(children) == 3
        server.process.kill()
        gone(children)
    names = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert set(names) <= {"device.log", "gateway.log", "tokenizer.log"}


def test_a_port_in_use_is_refused_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        printed = failed("--model", str(MODEL), "--http-port", port, "--grpc-port", "0")
    assert printed == (
        f"tpuserve: cannot listen on 127.0.0.1:{port}: Address already in use; "
        "choose another port with --http-port\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere"], "nowhere is not a directory"),
        (["--model", str(MODEL), "--runtime", "gpu"], "unknown runtime 'gpu'"),
        (["--model", str(MODEL), "--runtime", "pcie"], "no chip"),
        (
            ["--model", str(MODEL), *ANY_PORTS, "--log-dir", "/proc/nowhere"],
            "--log-dir /proc/nowhere: No such file or directory",
        ),
        (
            ["--model", str(MODEL), *ANY_PORTS, "--runtime", "emulator", "--devices", "9"],
            "device exited with 1: there is no chip 9",
        ),
        (
            ["--model", str(CHIPS2), *ANY_PORTS, "--runtime", "emulator", "--devices", "0,1,2"],
            "3 chips (0,1,2) do not make groups of 2, the number that the model was compiled for",
        ),
        (["--model", str(MODEL), "--grpc-port", "70000"], "--grpc-port is 70000, must be between"),
        (
            ["--model", str(MODEL), "--grpc-port", "9", "--http-port", "9", "--host", "192.0.2.1"],
            "cannot listen on 192.0.2.1:9: Cannot assign requested address",
        ),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments: list[str], message: str) -> None:
    assert message in failed(*arguments)


def test_a_broken_bmodel_is_named(tmp_path: Path) -> None:
    model = tmp_path / "broken"
    shutil.copytree(MODEL / "config", model / "config")
    whole = next(MODEL.glob("*.bmodel")).read_bytes()
    (model / "broken.bmodel").write_bytes(whole[: len(whole) // 2])
    printed = failed(
        *["--model", str(model), "--runtime", "emulator"],
        *[*ANY_PORTS, "--log-level", "error"],
    )
    last = printed.splitlines()[-1]
    assert last.startswith("tpuserve: device exited with 1: ")
    assert f"broken.bmodel is truncated: it has {len(whole) // 2} bytes" in last


def test_no_emulator_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPUSERVE_EMULATOR_DIR", str(tmp_path))
    printed = failed("--model", str(MODEL), "--runtime", "emulator")
    assert f"the chip emulator is not in {tmp_path}" in printed
    assert "run `tpuserve emulator install`" in printed


def test_demo_once_asks_over_both_protocols(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, "demo", "--model", str(MODEL), "--once"]
    result = subprocess.run(
        [*command, *ANY_PORTS],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=28,
    )
    assert result.returncode == 0, result.stderr
    rates = re.findall(r"(\d+) tokens, TTFT \d+ ms, (\d+\.\d) tokens/s", result.stdout)
    assert len(rates) == 2
    assert all(int(tokens) > 0 for tokens, _ in rates)


def test_every_service_serves_its_metrics(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ("--metrics-port", str(port), "--deterministic", "--itl-budget-ms", "120")
    with up(tmp_path, "--model", str(MODEL), *options) as server:
        server.wait_for(r"gRPC   (\S+)")
        for number, family in enumerate((b"tpuserve_tokenizer_", b"tpuserve_device_slots")):
            url = f"http://127.0.0.1:{port + number}/metrics"
            with urllib.request.urlopen(url, timeout=10) as metrics:
                assert family in metrics.read()
        command = " ".join(server.child("device_svc").cmdline())
        assert "--itl-budget-ms 120 --deterministic" in command
