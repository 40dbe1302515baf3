"""The device service: serves one bmodel on one chip group.

Exit status: 0 drained, 1 cannot start, 2 wrong usage, 3 a chip or the runtime failed.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from device_svc.engine import CoreEngine
from device_svc.engine_api import OpenEngine
from device_svc.prefix_cache import PrefixMode
from device_svc.process import Endpoints, run_device
from device_svc.scheduler import Policy
from device_svc.service import DeviceConfig
from device_svc.servicer import Identity
from tpuserve import bmodel, encryption, model_dir, runtime_library
from tpuserve.encryption.key import ENVIRONMENT as KEY_ENVIRONMENT
from tpuserve.rpc import logging

DEFAULT_SLOTS: Final = 4


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
    add("--devices", type=_chips, default=(0,), metavar="0,1", help="chip ids of the group")
    add(
        "--slots",
        type=_positive,
        help="resident requests; default: tpuserve.toml's, else the batch that the bmodel was "
        f"compiled for, else {DEFAULT_SLOTS}",
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
        "--key-file",
        type=Path,
        metavar="FILE",
        help=f"key of an encrypted bmodel; default: the file that {KEY_ENVIRONMENT} names",
    )
    add("--metrics-listen", metavar="HOST:PORT", help="serve Prometheus metrics here")
    add("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    return parser


def _prepare(arguments: argparse.Namespace) -> tuple[DeviceConfig, OpenEngine]:
    """Everything that can be checked without opening a chip. Raises OSError or ValueError."""
    model = model_dir.load(arguments.model)
    content = _read_content(model, arguments.key_file)
    library = runtime_library.find(arguments.runtime)
    os.environ.update(library.environment)
    if library.emulator and arguments.log_level != "debug":
        _mute_stdout()
    memory = bmodel.memory_budget(content.nets)
    batch = memory.context_slots if memory.context_slots > 1 else DEFAULT_SLOTS
    slots = arguments.slots or model.slots or batch
    chips = arguments.devices
    config = DeviceConfig(
        identity=Identity(
            name=arguments.name or f"{socket.gethostname()}:{','.join(map(str, chips))}",
            model_name=model.name,
            bmodel_sha256=content.sha256,
            chips=chips,
            runtime_kind=library.kind,
        ),
        max_waiting=arguments.max_waiting,
        itl_budget_s=arguments.itl_budget_ms / 1000,
        policy=Policy(PrefixMode(arguments.prefix_cache), arguments.preempt_host_bytes),
    )
    open_engine = functools.partial(
        CoreEngine,
        (content.source,),
        library.directory,
        emulator=library.emulator,
        chips=chips,
        slots=slots,
        memory=memory,
        vocab_size=_config_vocab_size(model.config),
        deterministic=arguments.deterministic,
        # That driver's runtime takes weights from the file as they are.
        decrypt_whole=library.kind == "soc",
    )
    return config, open_engine


@dataclass(frozen=True, slots=True)
class _Content:
    """source: what the engine loads. sha256: of the plain bmodel."""

    source: Path | encryption.Opened
    sha256: str
    nets: bmodel.Bmodel


def _read_content(model: model_dir.ModelDir, key_file: Path | None) -> _Content:
    """Raises OSError or ValueError."""
    opened = encryption.unlock(model.bmodel, key_file)
    if opened is None:
        sha256 = model_dir.bmodel_sha256(model)
        return _Content(model.bmodel, sha256, bmodel.read(model.bmodel))
    # What a hash would find, decrypting finds: no need to read the file twice.
    return _Content(opened, opened.container.public.sha256, encryption.read_bmodel(opened))


def _mute_stdout() -> None:
    """The emulator prints there at every launch; the service's own words go to stderr."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.close(sink)


def _config_vocab_size(config: Path) -> int:
    """Rows of the embedding as config.json has them; 0 without that file or entry."""
    path = config / "config.json"
    if not path.exists():
        return 0
    try:
        size = json.loads(path.read_text(encoding="utf-8")).get("vocab_size", 0)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not a JSON object: {error}") from error
    if not isinstance(size, int) or size < 0:
        raise ValueError(f"{path}: vocab_size is {size!r}, must be a count")
    return size


def _chips(text: str) -> tuple[int, ...]:
    try:
        chips = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 0,1") from error
    if min(chips) < 0 or len(set(chips)) < len(chips):
        raise argparse.ArgumentTypeError(f"{text!r} repeats a chip or has a negative one")
    return chips


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
