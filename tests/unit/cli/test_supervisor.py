"""The supervisor over real processes: short Python scripts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tpuserve.cli.supervisor import Child, ChildFailed, RestartPolicy, Supervisor

SOON = RestartPolicy(first_s=0.01, longest_s=0.04)
SLEEP = "import signal; print('up', flush=True); signal.pause()"
# Says when it ends, so that the order of several can be seen.
POLITE = """
import signal, sys
def end(*_):
    print('end', flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print('up', flush=True)
signal.pause()
"""
DEAF = "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); signal.pause()"


def python(name: str, script: str, *arguments: str, grace_s: float = 10.0) -> Child:
    return Child(name, (sys.executable, "-c", script, *arguments), grace_s)


class Watched:
    """A supervisor with all that it and its children said."""

    def __init__(self, *children: Child) -> None:
        self.lines: list[tuple[str, str]] = []
        self.reports: list[str] = []
        self.stop = asyncio.Event()
        self.supervisor = Supervisor(
            children,
            report=self.reports.append,
            output=lambda name, line: self.lines.append((name, line)),
            policy=SOON,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.supervisor.run(self.stop))
        try:
            yield
        finally:
            self.stop.set()
            await task

    def count(self, name: str, line: str) -> int:
        return self.lines.count((name, line))


async def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.005)


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


async def test_ends_the_last_first_and_waits() -> None:
    watched = Watched(*(python(name, POLITE) for name in ("a", "b", "c")))
    async with watched.running():
        await until(lambda: len(watched.lines) == 3)
    assert [name for name, line in watched.lines if line == "end"] == ["c", "b", "a"]
    assert watched.reports == []
    assert watched.supervisor.pid("a") is None


async def test_reports_and_restarts_what_was_killed() -> None:
    watched = Watched(python("device", SLEEP), python("other", SLEEP))
    async with watched.running():
        await until(lambda: len(watched.lines) == 2)
        watched.supervisor.up()
        other = watched.supervisor.pid("other")
        for round_ in range(1, 6):  # more often than a start may fail
            pid = watched.supervisor.pid("device")
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until(lambda count=round_ + 1: watched.count("device", "up") == count)  # type: ignore[misc]
        assert watched.supervisor.pid("other") == other
    assert len(watched.reports) == 5
    assert watched.reports[0].startswith("device was killed by SIGKILL")
    assert watched.reports[0].endswith("restarting in 0.01 s")
    assert watched.reports[4].endswith("restarting in 0.04 s")


async def test_a_refusal_to_start_ends_all_at_once() -> None:
    refusing = python("device", "import sys; sys.exit(print('error: no chip 7') or 1)")
    watched = Watched(python("tokenizer", POLITE), refusing)
    with pytest.raises(ChildFailed, match=r"^device exited with 1: no chip 7$"):
        await watched.supervisor.run(watched.stop)
    assert watched.count("device", "error: no chip 7") == 1
    assert watched.supervisor.pid("tokenizer") is None


async def test_wrong_arguments_are_a_refusal() -> None:
    script = "import argparse; argparse.ArgumentParser('tpuserve-device').parse_args(['--slot'])"
    watched = Watched(python("device", script))
    with pytest.raises(ChildFailed, match=r"exited with 2: unrecognized arguments: --slot$"):
        await watched.supervisor.run(watched.stop)
    assert watched.reports == []


async def test_gives_up_after_some_quick_failures() -> None:
    watched = Watched(python("device", "import sys; print('chip hangs'); sys.exit(7)"))
    with pytest.raises(ChildFailed, match=r"^device exited with 7: chip hangs$"):
        await watched.supervisor.run(watched.stop)
    assert watched.count("device", "chip hangs") == 3
    assert watched.reports == [
        "device exited with 7: chip hangs; restarting in 0.01 s",
        "device exited with 7: chip hangs; restarting in 0.02 s",
    ]


async def test_the_reason_is_the_last_complaint() -> None:
    """Log lines of a service count when they are errors, in words, without their other fields."""
    script = """
print('{"level": "info", "event": "ready"}')
print('{"level": "error", "event": "chip failed", "reason": "launch of block_0", "pid": 4}')
print('{"level": "info", "event": "draining"}')
raise SystemExit(3)
"""
    watched = Watched(python("device", script))
    with pytest.raises(ChildFailed, match=r"exited with 3: chip failed: launch of block_0$"):
        await watched.supervisor.run(watched.stop)


async def test_names_a_program_that_cannot_run() -> None:
    watched = Watched(Child("device", ("/nowhere/program",)))
    with pytest.raises(ChildFailed, match=r"device cannot be started: .*No such file"):
        await watched.supervisor.run(watched.stop)


async def test_kills_what_does_not_end_in_time() -> None:
    watched = Watched(python("deaf", DEAF, grace_s=0.2))
    async with watched.running():
        await until(lambda: watched.count("deaf", "up") == 1)
        pid = watched.supervisor.pid("deaf")
    assert pid is not None
    assert gone(pid)
    assert watched.reports == ["deaf did not stop within 0.2 s; killed"]


async def test_kill_does_not_wait() -> None:
    watched = Watched(python("deaf", DEAF, grace_s=1000), python("deaf2", DEAF, grace_s=1000))
    async with watched.running():
        await until(lambda: len(watched.lines) == 2)
        watched.stop.set()
        watched.supervisor.kill()
    assert watched.reports == []


async def test_stops_while_a_restart_is_due() -> None:
    watched = Watched(python("device", "raise SystemExit(7)"))
    watched.supervisor.up()
    async with watched.running():
        await until(lambda: len(watched.reports) > 3)


async def test_relays_both_streams_whole_and_without_end() -> None:
    script = (
        "import sys; print('ä', end='\\r\\n'); sys.stdout.flush(); "
        "print('e' * 300_000, file=sys.stderr); sys.stderr.flush(); sys.stdout.write('rest')"
    )
    watched = Watched(python("a", script))
    with pytest.raises(ChildFailed, match="a exited with 0"):
        await watched.supervisor.run(watched.stop)
    text = "".join(line for _, line in watched.lines)
    assert text == ("ä\r" + "e" * 300_000 + "rest") * 3


def test_delays_double_up_to_the_longest() -> None:
    policy = RestartPolicy()
    assert [policy.delay_s(n) for n in range(1, 8)] == [0.5, 1, 2, 4, 8, 10, 10]


def test_children_end_with_a_killed_parent(tmp_path: Path) -> None:
    """`tpuserve.cli.child` under a parent that gets no chance to clean up."""
    (tmp_path / "sleeper.py").write_text(
        "import os, signal, sys\nprint(os.getpid(), sys.argv[1], flush=True)\nsignal.pause()\n"
    )
    script = (
        "import os, subprocess, sys\n"
        "launcher = [sys.executable, '-m', 'tpuserve.cli.child', str(os.getpid())]\n"
        "subprocess.run([*launcher, 'sleeper', 'x'], start_new_session=True)"
    )
    root = Path(__file__).resolve().parents[3]
    environ = {**os.environ, "PYTHONPATH": f"{root}:{tmp_path}"}
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environ, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid, argument = parent.stdout.readline().split()
        assert argument == "x"
        assert not gone(int(pid))
        parent.kill()
    deadline_s = time.monotonic() + 10
    while not gone(int(pid)):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_child_of_a_parent_that_has_gone_does_not_start() -> None:
    command = [sys.executable, "-m", "tpuserve.cli.child", str(os.getpid() + 1), "antigravity"]
    result = subprocess.run(command, capture_output=True, check=False)
    assert result.returncode == 1
