"""`tpuserve compare A.npz B.npz`: how far two dumps are apart; status 1 when they do not agree."""

from __future__ import annotations

import argparse
from pathlib import Path

from tpuserve.cli import text
from tpuserve.cli.errors import CommandError
from tpuserve.dumps import Difference, DumpFileError, compare, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", type=Path, metavar="A.npz")
    parser.add_argument("b", type=Path, metavar="B.npz")
    parser.add_argument(
        "--min-cos",
        type=float,
        default=0.9999,
        help="lowest cosine that a token of a tensor may have (%(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    try:
        report = compare(load(args.a), load(args.b))
    except DumpFileError as error:
        raise CommandError(str(error)) from error
    rows: list[tuple[str, ...]] = [
        ("tensor", "shape", "cos", "lowest of a token", "max abs", "first other token")
    ]
    rows += [_row(each) for each in report.differences]
    print(text.table(rows))
    for problem in report.problems:
        print(problem)
    first = report.first_differing
    if first is not None:
        print(f"first that differs: {first.name}")
    elif not report.problems:
        print("all equal")
    agrees = report.agrees(args.min_cos)
    print(f"{'agree' if agrees else 'DO NOT agree'} at a cosine of {args.min_cos:g}")
    return 0 if agrees else 1


def _row(each: Difference) -> tuple[str, ...]:
    return (
        each.name,
        "×".join(map(str, each.shape)),
        f"{each.cos:.9f}",
        f"{each.lowest_cos:.9f}",
        f"{each.max_abs:.3g}",
        "-" if each.first_row is None else str(each.first_row),
    )
