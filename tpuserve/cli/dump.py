"""`tpuserve dump PROMPT -o FILE.npz`: what a running device computes of one prompt."""

from __future__ import annotations

import argparse
from pathlib import Path

from tpuserve import errors
from tpuserve.cli import connection
from tpuserve.cli.errors import CommandError
from tpuserve.client import Message
from tpuserve.dumps import DumpRequest, fetch, save


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("prompt", nargs="?", help="a text; tokenized by the server at --address")
    add("--chat", action="store_true", help="the prompt is a user's message, not a plain text")
    add("--ids", type=_numbers, metavar="1,2,3", help="token ids in place of a text")
    add("-o", "--output", type=Path, required=True, metavar="FILE.npz")
    add("--device", required=True, metavar="ADDR", help="device service: host:port or unix:/path")
    add("--address", default="127.0.0.1:50051", help="gRPC server for the text (%(default)s)")
    add("--layers", type=_numbers, default=(), metavar="0,1", help="default: all")
    add("--steps", type=int, default=0, help="tokens to decode behind the prompt (%(default)s)")
    add("--only", choices=("hidden", "kv"), help="default: hidden states, and K and V")
    add("--timeout", type=float, default=300.0, metavar="SECONDS", help="(%(default)s)")


def run(args: argparse.Namespace) -> int:
    if (args.prompt is None) == (args.ids is None):
        raise CommandError("name either a prompt or --ids")
    if args.steps < 0:
        raise CommandError(f"--steps is {args.steps}, must be at least 0")
    request = DumpRequest(
        prompt_ids=_prompt_ids(args),
        decode_tokens=args.steps,
        layers=args.layers,
        hidden_states=args.only != "kv",
        kv=args.only != "hidden",
    )
    try:
        dump = fetch(args.device, request, timeout_s=args.timeout)
        save(args.output, dump)
    except errors.TpuserveError as error:
        raise CommandError(error.message) from error
    except OSError as error:
        raise CommandError(f"{args.output}: {error.strerror}") from error
    tokens = len(dump.tensors["ids"])
    print(f"{args.output}  {len(dump.tensors)} tensors of {tokens} tokens")
    return 0


def _prompt_ids(args: argparse.Namespace) -> tuple[int, ...]:
    if args.ids is not None:
        return tuple(args.ids)
    source = [Message("user", args.prompt)] if args.chat else args.prompt
    with connection.connect(args.address) as client:
        try:
            return tuple(client.tokenize(source, timeout_s=args.timeout).ids)
        except errors.TpuserveError as error:
            raise CommandError(error.message) from error


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 0,1") from error
    if min(numbers) < 0 or max(numbers) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} has a number that is none of a token or layer")
    return numbers
