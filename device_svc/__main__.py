"""The device service: serves one bmodel on one chip group.

Exit status: 0 drained, 1 cannot start, 2 wrong usage, 3 a chip or the runtime failed.
"""

from __future__ import annotations

import argparse
import functools
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from device_svc.engine import emulator_memory_bytes
from device_svc.engine_api import OpenEngine
from device_svc.loading import DEFAULT_SLOTS, LoadOptions, plan_model
from device_svc.prefix_cache import PrefixMode
from device_svc.process import Endpoints, run_device
from device_svc.scheduler import Policy
from device_svc.service import DeviceConfig
from device_svc.servicer import Identity
from device_svc.swap import ModelPlan, SwapConfig
from tpuserve import chips, runtime_library
from tpuserve.encryption.key import ENVIRONMENT as KEY_ENVIRONMENT
from tpuserve.rpc import logging


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    logging.configure("device", arguments.log_level)
    return run_device(
        functools.partial(_prepare, arguments),
        Endpoints(arguments.listen, arguments.metrics_listen),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tpuserve-device", description=__doc__)
    add = parser.add_argument
    add("--model", required=True, metavar="DIR", help="model directory")
    add("--listen", required=True, metavar="ADDR", help="host:port or unix:/path")
    add("--name", help="device group's name; default: host name and chips")
    add(
        "--runtime",
        default="auto",
        metavar="KIND",
        help="auto, pcie, soc, emulator, simchip:PROFILE or a path",
    )
    add(
        "--devices",
        type=chips.chip_list,
        metavar="0,1",
        help="chips of the group as the host numbers them, one for each part of the model in its "
        "order; default: the lowest numbers",
    )
    add(
        "--slots",
        type=_positive,
        help="resident requests; default: tpuserve.toml's, else for each chip the batch that the "
        f"bmodel was compiled for, else {DEFAULT_SLOTS}",
    )
    add("--max-waiting", type=_count, default=256, help="requests that may wait for a slot")
    add(
        "--itl-budget-ms",
        type=_positive,
        default=250,
        help="longest gap between two tokens of a request that prefill of others may cause",
    )
    add(
        "--prefix-cache",
        choices=[mode.value for mode in PrefixMode],
        default=PrefixMode.EXACT.value,
        help="KV rows that prompts share: exact (default) reuses what a cold run would have bit "
        "for bit, fast also rows of completions",
    )
    add(
        "--preempt-host-bytes",
        type=_count,
        default=Policy().preempt_host_bytes,
        metavar="BYTES",
        help="host memory for the KV of requests that lose their slot to a higher priority; "
        "0: none does; default: %(default)s",
    )
    add(
        "--deterministic",
        action="store_true",
        help="run every decode step in one shape variant of its nets, the largest: tokens never "
        "depend on load, to the last bit of their logits; costs speed when few requests run",
    )
    add(
        "--greedy-head",
        action="store_true",
        help="let the bmodel's greedy_head draw on the chip: one number leaves it for each token, "
        "not all logits; every request must be greedy, as with an argmax head",
    )
    add(
        "--key-file",
        type=Path,
        metavar="FILE",
        help=f"key of an encrypted bmodel; default: the file that {KEY_ENVIRONMENT} names",
    )
    add(
        "--allow-dumps",
        action="store_true",
        help="answer DumpTensors, which shows what a prompt's layers compute, to any client",
    )
    add(
        "--swap-root",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="SwapModel may load model directories that are this one or below it; may be repeated; "
        "default: the model stays",
    )
    add("--metrics-listen", metavar="HOST:PORT", help="serve Prometheus metrics here")
    add("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    return parser


def _prepare(arguments: argparse.Namespace) -> tuple[DeviceConfig, OpenEngine]:
    """Everything that can be checked without opening a chip. Raises OSError or ValueError."""
    library = runtime_library.find(arguments.runtime)
    os.environ.update(library.environment)
    if library.emulator and arguments.log_level != "debug":
        _mute_stdout()
    options = LoadOptions(
        library,
        arguments.devices,
        slots=arguments.slots,
        deterministic=arguments.deterministic,
        greedy=arguments.greedy_head,
        key_file=arguments.key_file,
    )
    model = plan_model(arguments.model, options)
    # From now on the device has these chips.
    options = replace(options, chips=model.chips)
    config = DeviceConfig(
        identity=Identity(
            name=arguments.name or f"{socket.gethostname()}:{','.join(map(str, model.chips))}",
            model_name=model.name,
            bmodel_sha256=model.sha256,
            chips=model.chips,
            runtime_kind=library.kind,
            images=model.images,
        ),
        max_waiting=arguments.max_waiting,
        itl_budget_s=arguments.itl_budget_ms / 1000,
        policy=Policy(PrefixMode(arguments.prefix_cache), arguments.preempt_host_bytes),
        allow_dumps=arguments.allow_dumps,
        swap=_swap_config(arguments.swap_root, model, options),
    )
    return config, functools.partial(model.open_engine, memories=model.memories)


def _swap_config(
    roots: Sequence[Path], model: ModelPlan, options: LoadOptions
) -> SwapConfig | None:
    if not roots:
        return None
    for root in roots:
        if not root.is_dir():
            raise ValueError(f"--swap-root {root} is not a directory")
    chip_bytes = emulator_memory_bytes() if options.library.emulator else None
    plan = functools.partial(plan_model, options=options)
    return SwapConfig(tuple(root.resolve() for root in roots), plan, model, chip_bytes)


def _mute_stdout() -> None:
    """The emulator prints there at every launch; the service's own words go to stderr."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.close(sink)


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
