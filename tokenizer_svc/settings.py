"""What the command line says, and the limits of the service."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizer_svc.answers.formats import REASONING_PARSERS, TOOL_PARSERS


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of what a client may ask for."""

    text_bytes: int = 4 * 1024 * 1024
    # Larger inputs (characters, bytes or ids) are worked on off the event loop.
    inline_size: int = 4096
    # Encodings that run or wait off the event loop.
    pending_encodings: int = 256
    encode_threads: int = 4
    open_requests: int = 4096
    stops: int = 16
    stop_bytes: int = 256
    request_id_bytes: int = 256
    decode_ids: int = 1 << 20
    # Ids in one message of a Detokenize stream.
    message_ids: int = 1 << 16
    # Prompt ids that are looked at; a character spans at most this many tokens.
    prompt_tail_ids: int = 16
    # Functions that an answer may call.
    functions: int = 128


@dataclass(frozen=True, slots=True)
class Settings:
    """Addresses are `host:port` or `unix:/path`; metrics are not served without an address.

    The parsers are None where the model directory decides.
    """

    model: Path
    listen: str
    metrics_listen: str | None
    log_level: str
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    grace_s: float = 30.0


def parse(argv: Sequence[str] | None) -> Settings:
    """Reads the arguments; argparse ends the process with status 2 when they are wrong."""
    parser = argparse.ArgumentParser(
        prog="tokenizer_svc", description="Serves the tokenizer of a model directory over gRPC."
    )
    parser.add_argument("--model", type=Path, required=True, help="the model directory")
    parser.add_argument("--listen", required=True, help="host:port or unix:/path")
    parser.add_argument("--metrics-listen", help="host:port of the /metrics page")
    parser.add_argument(
        "--log-level", default="info", choices=("debug", "info", "warning", "error")
    )
    parser.add_argument(
        "--tool-parser",
        choices=TOOL_PARSERS,
        help="format of the model's calls; default: tpuserve.toml, else by the chat template",
    )
    parser.add_argument(
        "--reasoning-parser",
        choices=REASONING_PARSERS,
        help="format of the model's reasoning; default as for --tool-parser",
    )
    arguments = parser.parse_args(argv)
    return Settings(
        model=arguments.model,
        listen=arguments.listen,
        metrics_listen=arguments.metrics_listen,
        log_level=arguments.log_level,
        tool_parser=arguments.tool_parser,
        reasoning_parser=arguments.reasoning_parser,
    )
