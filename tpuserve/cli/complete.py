"""`tpuserve complete PROMPT`: continue a text."""

from __future__ import annotations

import argparse
import sys

from tpuserve import errors
from tpuserve.cli import answering, connection
from tpuserve.cli.errors import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help="the text to continue; - reads it from stdin")
    connection.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    with connection.connect(args.address) as client:
        try:
            answering.show(client.generate(prompt, connection.options(args)))
        except errors.TpuserveError as error:
            raise CommandError(error.message) from error
    return 0
