"""What the commands that talk to a server have in common."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from tpuserve import errors
from tpuserve.cli.errors import CommandError
from tpuserve.client import Client, FormatKind, Options, OutputFormat

_CONNECT_S: Final = 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", default="127.0.0.1:50051", help="gRPC server (%(default)s)")
    parser.add_argument("--model", default="", help="model name (default: the one served)")
    parser.add_argument("--max-tokens", type=int, help="most tokens of an answer")
    parser.add_argument("--temperature", type=float, help="0 is greedy")
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--seed", type=int, help="same seed, same answer")
    parser.add_argument("--stop", action="append", default=[], help="a text that ends the answer")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json-schema", type=Path, metavar="FILE", help="answer in this schema")
    shape.add_argument("--regex", help="answer in the language of this regular expression")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="deadline of an answer")


def options(args: argparse.Namespace) -> Options:
    return Options(
        model=args.model,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        seed=args.seed,
        stop=tuple(args.stop),
        output_format=_output_format(args),
        timeout_s=args.timeout,
    )


def _output_format(args: argparse.Namespace) -> OutputFormat | None:
    if args.regex is not None:
        return OutputFormat(FormatKind.REGEX, args.regex)
    if args.json_schema is None:
        return None
    try:
        schema = args.json_schema.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--json-schema {args.json_schema}: {error}") from error
    return OutputFormat(FormatKind.JSON_SCHEMA, schema)


def connect(address: str) -> Client:
    """Raises CommandError when no server is there."""
    client = Client(address)
    try:
        client.wait_connected(_CONNECT_S)
    except errors.Unavailable as error:
        client.close()
        raise CommandError(
            f"{error}; start one with `tpuserve up --model DIR`, or name it with --address"
        ) from error
    return client
