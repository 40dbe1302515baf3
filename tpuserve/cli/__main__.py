"""`tpuserve COMMAND`: finds the command's module and runs it.

A command is a module of this package with `add_arguments(parser)` and `run(args) -> exit status`.
Only the chosen one is imported, so `tpuserve --help` stays fast.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final, Protocol, cast

from tpuserve.cli.errors import CommandError

COMMANDS: Final = {
    "up": "serve a model directory: tokenizer, device and gateway, supervised",
    "chat": "talk to a server",
    "complete": "continue a prompt",
    "compile": "make a model directory of a Hugging Face checkpoint",
    "inspect": "show what a bmodel holds and what it costs",
    "encrypt": "encrypt a model directory's bmodels, or make a key",
    "dump": "write what a prompt's layers compute to a .npz file",
    "compare": "compare two such files",
    "swap": "change the model of a running device",
    "doctor": "check runtimes, chips and limits of this machine",
    "emulator": "install or locate the chip emulator",
    "demo": "serve the demo model and ask it two questions",
}


class Command(Protocol):
    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 for a failure, 2 for wrong arguments, 130 when interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    parser = argparse.ArgumentParser(prog="tpuserve", description="LLM serving on BM1684X TPUs.")
    parser.add_argument("--version", action="store_true", help="print the version")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    command: Command | None = None
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if name == chosen:
            command = cast(Command, importlib.import_module(f"tpuserve.cli.{name}"))
            command.add_arguments(subparser)
    args = parser.parse_args(arguments)
    if args.version:
        return _print_version()
    if command is None:
        parser.print_help(sys.stderr)
        return 2
    return _run(command, args)


def _run(command: Command, args: argparse.Namespace) -> int:
    try:
        status = command.run(args)
        sys.stdout.flush()
    except CommandError as error:
        print(f"tpuserve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of stdout went away (`tpuserve … | head`); nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _print_version() -> int:
    from importlib.metadata import version

    print(version("tpuserve"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
