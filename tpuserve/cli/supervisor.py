"""Keeps a few child processes alive and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

_TAIL_LINES: Final = 20
_READ_BYTES: Final = 65536
# A service that cannot start, or that does not understand its arguments.
_REFUSALS: Final = (1, 2)
_ERROR: Final = re.compile(r"(?:[\w-]+: )?error: (.*)")


class ChildFailed(Exception):
    """A child does not come up; the text names it and gives its own reason."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process to keep: `command` is an argument list, `grace_s` the time it gets to drain."""

    name: str
    command: tuple[str, ...]
    grace_s: float = 35.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """Delays double from `first_s` to `longest_s`, and start anew after `healthy_s` of life.

    Until `Supervisor.up` is called a child gets `attempts` quick failures, and one when it refused
    to start (a line `error: …` and status 1 or 2), for then another try would end alike.
    """

    first_s: float = 0.5
    longest_s: float = 10.0
    healthy_s: float = 30.0
    attempts: int = 3

    def delay_s(self, failures: int) -> float:
        return min(self.longest_s, self.first_s * 2.0 ** (max(1, failures) - 1))


@dataclass(slots=True)
class _State:
    process: asyncio.subprocess.Process | None = None
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL_LINES))


Report = Callable[[str], None]
Output = Callable[[str, str], None]


class Supervisor:
    """Starts `children` together; stops them one after another, the last first.

    report: gets one line per event, for people. output: gets the name and each line that a child
    writes to stdout or stderr. Children have a session of their own, so that a Ctrl-C at the
    terminal reaches the supervisor alone.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        report: Report,
        output: Output,
        policy: RestartPolicy = RestartPolicy(),
    ) -> None:
        self._children = tuple(children)
        self._report = report
        self._output = output
        self._policy = policy
        self._states = {child.name: _State() for child in children}
        self._stopping = asyncio.Event()
        self._is_up = False

    def up(self) -> None:
        """The children work together: from now on restart them however often they die."""
        self._is_up = True

    def pid(self, name: str) -> int | None:
        """Of the running process; None between two."""
        process = self._states[name].process
        return None if process is None else process.pid

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; then ends the children. Raises ChildFailed when one gave up."""
        keepers = [asyncio.create_task(self._keep(child)) for child in self._children]
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([stopped, *keepers], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stopping.set()
            stopped.cancel()
            await self._end()
            outcomes = await asyncio.gather(*keepers, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def kill(self) -> None:
        """End every child at once, for a user who does not want to wait."""
        self._stopping.set()
        for state in self._states.values():
            _send(state.process, signal.SIGKILL)

    async def _end(self) -> None:
        for child in reversed(self._children):
            process = self._states[child.name].process
            if process is None:
                continue
            _send(process, signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), child.grace_s)
            except asyncio.TimeoutError:
                self._report(f"{child.name} did not stop within {child.grace_s:g} s; killed")
                _send(process, signal.SIGKILL)

    async def _keep(self, child: Child) -> None:
        failures = 0
        while not self._stopping.is_set():
            lived_s, status = await self._live(child)
            if self._stopping.is_set():
                return
            failures = 1 if lived_s >= self._policy.healthy_s else failures + 1
            reason = self._reason(child.name, status)
            if not self._is_up and (
                failures >= self._policy.attempts or self._refused(child, status)
            ):
                raise ChildFailed(f"{child.name} {reason}")
            delay_s = self._policy.delay_s(failures)
            self._report(f"{child.name} {reason}; restarting in {delay_s:g} s")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)

    async def _live(self, child: Child) -> tuple[float, int]:
        """One process from start to end: seconds lived and exit status."""
        loop = asyncio.get_running_loop()
        state = self._states[child.name]
        state.tail.clear()
        started_s = loop.time()
        process = await _start(child)
        state.process = process
        if self._stopping.is_set():
            # `_end` or `kill` came while the process was being made and did not see it.
            _send(process, signal.SIGTERM)
        try:
            await self._relay(child.name, process)
            status = await process.wait()
        finally:
            state.process = None
        return loop.time() - started_s, status

    async def _relay(self, name: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        rest = b""
        while data := await process.stdout.read(_READ_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._take(name, line)
            if len(rest) > _READ_BYTES:  # a line without an end shall not fill the memory
                self._take(name, rest)
                rest = b""
        if rest:
            self._take(name, rest)

    def _take(self, name: str, line: bytes) -> None:
        text = line.decode("utf-8", errors="replace")
        self._states[name].tail.append(text)
        self._output(name, text)

    def _refused(self, child: Child, status: int) -> bool:
        return status in _REFUSALS and self._error_line(child.name) is not None

    def _reason(self, name: str, status: int) -> str:
        how = f"was killed by {_signal_name(-status)}" if status < 0 else f"exited with {status}"
        said = self._error_line(name)
        if said is None and status != 0:
            said = next(filter(None, map(_complaint, reversed(self._states[name].tail))), None)
        return how if said is None else f"{how}: {said}"

    def _error_line(self, name: str) -> str | None:
        """What the child printed for the user when it could not start."""
        for line in reversed(self._states[name].tail):
            if (match := _ERROR.match(line)) is not None:
                return match.group(1)
        return None


def _complaint(line: str) -> str | None:
    """What a line of output has to say about the end of a process; None for ordinary log lines."""
    try:
        record = json.loads(line)
    except ValueError:
        return line.strip() or None
    if not isinstance(record, dict) or record.get("level") not in ("error", "critical"):
        return None
    return ": ".join(str(record[key]) for key in ("event", "reason") if key in record)


async def _start(child: Child) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *child.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise ChildFailed(f"{child.name} cannot be started: {error}") from error


def _send(process: asyncio.subprocess.Process | None, number: signal.Signals) -> None:
    if process is not None and process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
