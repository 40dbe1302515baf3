"""What is printed for people, and written as JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import textwrap
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One number. `target` says in words what it should be; empty when nothing was promised."""

    name: str
    value: float
    unit: str
    target: str = ""
    # Whether the target is met; None without one.
    met: bool | None = None


def at_most(name: str, value: float, unit: str, limit: float) -> Row:
    return Row(name, value, unit, f"≤ {limit:g}", value <= limit)


def at_least(name: str, value: float, unit: str, limit: float) -> Row:
    return Row(name, value, unit, f"≥ {limit:g}", value >= limit)


@dataclass(frozen=True, slots=True)
class Section:
    """One measurement: `method` says in a sentence or two what was done."""

    name: str
    title: str
    method: str
    rows: tuple[Row, ...]


def text(section: Section) -> str:
    width = max(len(row.name) for row in section.rows)
    lines = [f"{section.title}", *(f"  {line}" for line in _wrapped(section.method))]
    for row in section.rows:
        verdict = {None: "", True: "met", False: "MISSED"}[row.met]
        cells = f"  {row.name:<{width}}  {row.value:>10.3f} {row.unit:<9} {row.target:<8} {verdict}"
        lines.append(cells.rstrip())
    return "\n".join(lines)


def machine() -> dict[str, object]:
    """What numbers depend on."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "load_1min": os.getloadavg()[0],
    }


def write_json(path: Path, machine: dict[str, object], sections: Sequence[Section]) -> None:
    document = {"machine": machine, "sections": [asdict(section) for section in sections]}
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _wrapped(paragraph: str, columns: int = 100) -> list[str]:
    return textwrap.wrap(paragraph, columns)
