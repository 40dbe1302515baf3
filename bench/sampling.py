"""What drawing tokens costs beside the step that makes the logits."""

from __future__ import annotations

import json
import subprocess

from bench import native
from bench.report import Row, Section, at_most

_VOCABULARY = 152_064
_ROWS = 16
# Of a Qwen2.5-7B step of 16 rows, 4-bit weights, 512 tokens: docs/estimate.md.
_STEP_MS = 99.0
_LIMIT_PERCENT = 3.0

METHOD = (
    f"{_ROWS} rows of {_VOCABULARY} logits, as of Qwen2.5-7B, in one thread of "
    "csrc/bench/sampling; CPU time, median of 15 rounds. Checking the rows for NaN is part of it. "
    f"The share is that of the predicted step of {_STEP_MS:g} ms (docs/estimate.md)."
)


def run() -> Section:
    """Raises CalledProcessError when it cannot be built or run."""
    program = native.build("sampling")
    command = [str(program), "--vocabulary", str(_VOCABULARY), "--rows", str(_ROWS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    rows: list[Row] = []
    for line in done.stdout.splitlines():
        measured = json.loads(line)
        share = measured["us"] / 1000 / _STEP_MS * 100
        rows.append(Row(measured["way"], measured["us"] / _ROWS, "µs/row"))
        rows.append(at_most(f"{measured['way']}: share of a step", share, "%", _LIMIT_PERCENT))
    return Section("sampling", "Drawing tokens", METHOD, tuple(rows))
