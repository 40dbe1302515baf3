"""Measures tpuserve on this machine and prints a report. Takes a few minutes; leave it alone.

bare   decode rate of one stream through client, gateway and device, of a bare C++ loop's
ttft   what gateway and tokenizer add to the time to the first token
cpu    CPU time of gateway and tokenizer per relayed token and per request
many   32 clients at once
batch  tokens/s and gaps for 1, 2, 4 requests on the emulator, 1 to 16 on a simulated chip
predicted tokens/s of a card, from cycle profiles
variants how far logits move between shape variants of batched decode nets
sampling drawing tokens from logits, as a share of the step
prefix the first token behind a shared prefix, of that of a cold prompt
masks  what output formats take per row, for the vocabulary of --tokenizer
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvloop

from bench import (
    added_ttft,
    batch,
    concurrency,
    masks,
    native,
    predicted,
    prefix_ttft,
    processes,
    report,
    sampling,
    served_vs_bare,
    token_cost,
    variants,
)
from bench.report import Section
from tokenizer_svc.tokenizer import TokenizerConfigError
from tpuserve import runtime_library

_PARTS = (
    *("bare", "ttft", "cpu", "many", "prefix", "masks"),
    *("batch", "predicted", "sampling", "variants"),
)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    machine = report.machine()
    print(", ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    sections: list[Section] = []
    try:
        for section in _sections(arguments):
            print(f"\n{report.text(section)}", flush=True)
            sections.append(section)
    except (
        processes.ServiceError,
        prefix_ttft.UnsuitableModelError,
        TokenizerConfigError,
        runtime_library.RuntimeLibraryError,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        output = error.stderr or error.stdout or ""
        print(f"error: {error}\n{output}", file=sys.stderr)
        return 1
    if arguments.json is not None:
        report.write_json(arguments.json, machine, sections)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("parts", nargs="*", metavar="PART", help=f"{', '.join(_PARTS)}; all by default")
    add("--model", type=Path, default=Path("models/demo"), help="model directory")
    add("--tokenizer", type=Path, metavar="DIR", help="tokenizer files; default: the model's")
    add("--runtime", default="emulator", help="as of tpuserve-device")
    add("--rounds", type=int, default=11, help="of parts that take turns (bare, ttft, prefix)")
    add("--tokens", type=int, default=100, help="decoded per round of part bare")
    add("--clients", type=int, default=32, help="of part many")
    add("--json", type=Path, metavar="FILE", help="also write the numbers here")
    return parser


def _sections(arguments: argparse.Namespace) -> Iterator[Section]:
    parts = arguments.parts or _PARTS
    unknown = set(parts) - set(_PARTS)
    if unknown:
        raise SystemExit(f"error: no part {', '.join(sorted(unknown))}; parts: {', '.join(_PARTS)}")
    model: Path = arguments.model
    if {"bare", "many", "prefix"} & set(parts):
        yield from _over_the_engine(arguments, parts)
    if "ttft" in parts:
        with processes.stack(model, device_module="bench.instant_device") as stack:
            yield uvloop.run(added_ttft.run(stack, 2 * arguments.rounds))
    if "cpu" in parts:
        yield token_cost.run(model)
    if "batch" in parts:
        yield batch.emulated()
        yield batch.simulated()
    if "predicted" in parts:
        yield predicted.run()
    if "sampling" in parts:
        yield sampling.run()
    if "variants" in parts:
        yield variants.run()
    if "masks" in parts:
        yield masks.run(arguments.tokenizer or model / "config")


def _over_the_engine(arguments: argparse.Namespace, parts: Sequence[str]) -> Iterator[Section]:
    library = runtime_library.find(arguments.runtime)
    program = native.build("bare_loop") if "bare" in parts else None
    runtime = ("--runtime", arguments.runtime)
    with processes.stack(
        arguments.model, device_module="device_svc", device_arguments=runtime
    ) as stack:
        if program is not None:
            yield uvloop.run(
                served_vs_bare.run(
                    stack,
                    served_vs_bare.BareLoop.of(program, library, arguments.model),
                    rounds=arguments.rounds,
                    tokens=arguments.tokens,
                )
            )
        if "many" in parts:
            yield uvloop.run(concurrency.run(stack, clients=arguments.clients, tokens=32))
        if "prefix" in parts:
            yield uvloop.run(prefix_ttft.run(stack, arguments.rounds))


if __name__ == "__main__":
    sys.exit(main())
