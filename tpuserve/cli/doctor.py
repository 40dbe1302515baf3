"""`tpuserve doctor`: runtimes, chips and limits of this machine, and what to do about problems."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tpuserve import runtime_library
from tpuserve.cli import checks, text
from tpuserve.cli.checks import Check

_PROBE_S: Final = 60.0
_MARKS: Final = {"ok": "ok", "note": "-", "warning": "WARNING", "problem": "PROBLEM"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runtime", default="auto", help="auto, pcie, soc, emulator, simchip:PROFILE or a path"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """1 when something keeps tpuserve from serving with this runtime, else 0."""
    found = examine(args.runtime)
    if args.json:
        print(json.dumps([dataclasses.asdict(check) for check in found], indent=2))
    else:
        print(_page(found))
    return 1 if any(check.status == "problem" for check in found) else 0


def examine(
    runtime: str = "auto",
    *,
    root: Path = Path("/"),
    environ: Mapping[str, str] = os.environ,
) -> list[Check]:
    """All findings. `root` stands for the file system's root."""
    chips = runtime_library.pcie_nodes(root) + runtime_library.soc_nodes(root)
    found = [*checks.driver(root), *checks.soc(root)]
    found.append(checks.chip_emulator(environ, needed=not chips or runtime == "emulator"))
    found.append(checks.platform_of_emulator())
    found += checks.limits(root, chips=len(chips))
    try:
        library = runtime_library.find(runtime, root=root, environ=environ)
    except runtime_library.RuntimeLibraryError as error:
        return [*found, Check(f"runtime {runtime}", "problem", str(error))]
    found.append(Check(f"runtime {runtime}", "ok", f"{library.kind} in {library.directory}"))
    return [*found, *_probe(library, chips)]


def _probe(library: runtime_library.RuntimeLibrary, chips: tuple[int, ...]) -> list[Check]:
    """Open the runtime in a process of its own: a fatal error in there ends the process."""
    command = [sys.executable, "-m", "device_svc.probe", str(library.directory)]
    command += ["--emulator"] if library.emulator else []
    if chips and not library.emulator:
        command += ["--chips", ",".join(map(str, chips))]
    subject = "runtime opens"
    try:
        result = subprocess.run(
            command,
            env={**os.environ, **library.environment},
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [
            Check(
                *(subject, "problem", f"no answer within {_PROBE_S:g} s"),
                "a chip may hang: see `bm-smi`, recover it or reboot the host",
            )
        ]
    lines = result.stdout.splitlines()
    # The vendor's libraries write to stdout as well; the report is the last line.
    if result.returncode != 0 or not lines or not lines[-1].startswith("{"):
        said = [line for line in result.stderr.splitlines() if line.strip()] or ["no message"]
        detail = f"exit status {result.returncode}: {said[-1]}"
        return [Check(subject, "problem", detail, f"see all it says: {' '.join(command)}")]
    return _probed(subject, json.loads(lines[-1]))


def _probed(subject: str, report: dict[str, Any]) -> list[Check]:
    chips = report["chips"]
    version = report["version"] or "without a version"
    if not chips:
        return [Check(subject, "problem", f"{version}, but it finds no chip", "see `bm-smi`")]
    found = [Check(subject, "ok", f"{version}, {len(chips)} chip{'s' if len(chips) > 1 else ''}")]
    return found + [Check(f"chip {chip['chip']}", "ok", _readings(chip)) for chip in chips]


def _readings(chip: dict[str, Any]) -> str:
    readings = []
    if total := chip["memory_total_bytes"]:
        used = chip["memory_used_bytes"]
        readings.append(f"memory {text.size(used or 0)} of {text.size(total)}")
    if (heat := chip["temperature_celsius"]) is not None:
        readings.append(f"{heat:g} °C")
    if (power := chip["power_watts"]) is not None:
        readings.append(f"{power:g} W")
    return ", ".join(readings) or "answers; reports no readings"


def _page(found: list[Check]) -> str:
    lines = [text.table([(_MARKS[c.status], c.subject, c.detail) for c in found], indent="")]
    advice = [c for c in found if c.advice and c.status in ("warning", "problem")]
    if advice:
        lines.append("\nwhat to do")
        lines += [f"  {check.subject}: {check.advice}" for check in advice]
    return "\n".join(lines)
