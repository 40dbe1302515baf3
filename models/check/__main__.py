"""`python -m models.check [MODEL …]`: builds, serves and compares, one row after the other.

Ends with status 1 when a row is wrong. What a row printed on the way is shown with its failure.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from models.check.families import ROWS
from models.check.row import HEADER, Row


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models.check", description=__doc__)
    names = sorted({row.model for row in ROWS})
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(names)}")
    parser.add_argument("--weights", help="only rows of this quantization")
    parsed = parser.parse_args(arguments)
    unknown = set(parsed.models) - set(names)
    if unknown:
        parser.error(f"unknown models: {', '.join(sorted(unknown))}; known: {', '.join(names)}")
    return parsed


def run(rows: Sequence[Row]) -> int:
    """The number of rows that are wrong; prints a Markdown table as it grows."""
    wrong = 0
    print(_line((*HEADER, "s")))
    print(_line(["---"] * (len(HEADER) + 1)))
    for row in rows:
        start_s = time.monotonic()
        try:
            with tempfile.TemporaryDirectory(prefix="tpuserve-check-") as work:
                measured = row.measure(Path(work))
        except Exception:
            problems = [traceback.format_exc()]
            cells: tuple[str, ...] = (row.model, row.quantization, row.features, *["failed"] * 3)
        else:
            problems = row.problems(measured)
            cells = row.cells(measured)
        print(_line((*cells, f"{time.monotonic() - start_s:.0f}")), flush=True)
        for problem in problems:
            print(f"wrong: {problem}", file=sys.stderr, flush=True)
        wrong += bool(problems)
    return wrong


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    rows = [
        row
        for row in ROWS
        if (not args.models or row.model in args.models)
        and args.weights in (None, row.quantization)
    ]
    start_s = time.monotonic()
    wrong = run(rows)
    print(f"\n{len(rows) - wrong} of {len(rows)} rows hold; {time.monotonic() - start_s:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
