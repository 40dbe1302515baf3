"""`tpuserve demo`: serve the demo model and ask it two questions, one over each protocol."""

from __future__ import annotations

import argparse
import asyncio
import functools
import time
from typing import Final

from tpuserve import errors, runtime_library
from tpuserve.cli import answering, openai_sse, serving
from tpuserve.cli import emulator as emulator_command
from tpuserve.cli.answering import Answer
from tpuserve.cli.errors import CommandError
from tpuserve.cli.serving import Endpoints
from tpuserve.client import Client, Message, Options

_ANSWER_S: Final = 120.0
_ANSWER_TOKENS: Final = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    serving.add_arguments(parser)
    # Services that wait for each other while they start would otherwise speak between the answers.
    parser.set_defaults(log_level="error")
    parser.add_argument("--once", action="store_true", help="end after the answers")
    parser.add_argument("--grpc-question", default="What is a BM1684X?", metavar="TEXT")
    parser.add_argument("--http-question", default="What is gRPC?", metavar="TEXT")


def run(args: argparse.Namespace) -> int:
    _provide_runtime(args.runtime)
    directories = serving.directories(args)
    serving.report(f"starting the services with {', '.join(map(str, directories))}")
    return serving.serve(args, functools.partial(_converse, args, time.monotonic()))


def _provide_runtime(kind: str) -> None:
    """Install the emulator when it is what will run; a chip's own runtime needs nothing."""
    try:
        uses_emulator = runtime_library.find(kind).kind == "emulator"
    except runtime_library.RuntimeLibraryError:
        # Chips without their runtime are a problem that `serve` reports.
        nodes = runtime_library.pcie_nodes() + runtime_library.soc_nodes()
        uses_emulator = kind == "emulator" or (kind == "auto" and not nodes)
    if uses_emulator:
        emulator_command.install()


async def _converse(
    args: argparse.Namespace, started_s: float, endpoints: Endpoints, stop: asyncio.Event
) -> None:
    """Raises CommandError when an answer fails or is empty."""
    print(f"{endpoints.model} is ready after {time.monotonic() - started_s:.1f} s", flush=True)
    for title, ask, question in (
        (f"gRPC, {endpoints.grpc}", _ask_grpc, args.grpc_question),
        (f"OpenAI API, {endpoints.http}/v1", _ask_http, args.http_question),
    ):
        print(f"\n[{title}]\n> {question}", flush=True)
        answer = await asyncio.to_thread(ask, endpoints, question)
        print(
            f"  {answer.tokens} tokens, TTFT {answer.ftl_s * 1000:.0f} ms, "
            f"{answer.tokens_per_s:.1f} tokens/s",
            flush=True,
        )
        if not answer.text.strip():
            raise CommandError(f"the answer over {title} is empty")
    if args.once:
        stop.set()
        return
    print(f"\ngRPC   {endpoints.grpc}        tpuserve chat --address {endpoints.grpc}")
    print(f"HTTP   {endpoints.http}/v1  (OpenAI API; metrics at {endpoints.http}/metrics)")
    print("stop   Ctrl-C", flush=True)


def _ask_grpc(endpoints: Endpoints, question: str) -> Answer:
    options = Options(model=endpoints.models[0], max_tokens=_ANSWER_TOKENS, timeout_s=_ANSWER_S)
    with Client(endpoints.grpc) as client:
        try:
            return answering.show(client.chat([Message("user", question)], options))
        except errors.TpuserveError as error:
            raise CommandError(f"the question over gRPC failed: {error.message}") from error


def _ask_http(endpoints: Endpoints, question: str) -> Answer:
    chunks = openai_sse.ask(
        endpoints.http,
        endpoints.models[0],
        question,
        max_tokens=_ANSWER_TOKENS,
        timeout_s=_ANSWER_S,
    )
    try:
        return answering.show(chunks)
    except (OSError, ValueError) as error:
        raise CommandError(f"the question over HTTP failed: {error}") from error
