"""Shows which nets are compiled, from the events that `standins/bin/parallel` writes."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

_LOG_LINES = 25
_SHOWN_NETS = 3


@dataclass(frozen=True, slots=True)
class FailedNet:
    """A net that did not compile; `log` is the vendor's output for it."""

    net: str
    status: int
    log: Path

    def describe(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        end = "\n".join(f"  | {line}" for line in lines)
        return f"net {self.net} did not compile (status {self.status}); its log ends\n{end}"


@dataclass(slots=True)
class Progress:
    """One line per net on `stream`, or one line that changes where that is a terminal.

    `events` is the file that `poll` reads on; it need not exist yet.
    """

    events: Path
    stream: TextIO
    done: int = 0
    failed: list[FailedNet] = field(default_factory=list)
    _nets: int = 0
    _running: dict[str, float] = field(default_factory=dict)
    _offset: int = 0
    _rest: str = ""
    _start_s: float = field(default_factory=time.monotonic)
    _live: bool = False

    def poll(self) -> None:
        """Show what has happened since the last call."""
        for event in self._new_events():
            self._take(event)
        if not self.stream.isatty():
            return
        seconds = time.monotonic() - self._start_s
        if not self._nets:
            self._replace(f"laying out nets and weights, {seconds:.0f} s")
        elif self._running:
            names = list(self._running)
            shown = ", ".join(names[:_SHOWN_NETS]) + (" …" if len(names) > _SHOWN_NETS else "")
            self._replace(f"{self.done} of {self._nets} nets, {seconds:.0f} s: {shown}")

    def close(self) -> None:
        """Leave the line that changes, if there is one."""
        if self._live:
            self._replace("")
            self._live = False

    def _new_events(self) -> list[dict[str, object]]:
        if not self.events.exists():
            return []
        with self.events.open(encoding="utf-8") as file:
            file.seek(self._offset)
            text = self._rest + file.read()
            self._offset = file.tell()
        *lines, self._rest = text.split("\n")
        return [json.loads(line) for line in lines]

    def _take(self, event: dict[str, object]) -> None:
        match event:
            case {"event": "round", "nets": int(nets)}:
                if not self._nets:
                    seconds = time.monotonic() - self._start_s
                    self._say(f"laid out {nets} nets in {seconds:.1f} s")
                self._nets = nets
            case {"event": "started", "net": str(net)}:
                self._running[net] = time.monotonic()
            case {"event": "finished", "net": str(net), "seconds": float(seconds)}:
                self._running.pop(net, None)
                self._finish(net, seconds, event)

    def _finish(self, net: str, seconds: float, event: dict[str, object]) -> None:
        status = event["status"]
        if status != 0:
            assert isinstance(status, int)
            self.failed.append(FailedNet(net, status, Path(str(event["log"]))))
            return
        self.done += 1
        if not self.stream.isatty():
            self._say(f"{self.done} of {self._nets}: {net}, {seconds:.1f} s")

    def _say(self, text: str) -> None:
        self.close()
        print(text, file=self.stream, flush=True)

    def _replace(self, text: str) -> None:
        # To the line's start, and clear to its end.
        print(f"\r\x1b[K{text[:100]}", end="", file=self.stream, flush=True)
        self._live = True
