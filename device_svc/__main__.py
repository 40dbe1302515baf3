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
from tpuserve import bmodel, chips, encryption, model_dir, runtime_library
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
    add("--metrics-listen", metavar="HOST:PORT", help="serve Prometheus metrics here")
    add("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    return parser


def _prepare(arguments: argparse.Namespace) -> tuple[DeviceConfig, OpenEngine]:
    """Everything that can be checked without opening a chip. Raises OSError or ValueError."""
    model = model_dir.load(arguments.model)
    parts = [_read_part(path, arguments.key_file) for path in model.bmodels]
    sha256 = _model_sha256(model, parts)
    memories = [bmodel.memory_budget(part.nets) for part in parts]
    group = _group(arguments.devices, len(parts))
    library = runtime_library.find(arguments.runtime)
    os.environ.update(library.environment)
    if library.emulator and arguments.log_level != "debug":
        _mute_stdout()
    batch = memories[0].context_slots
    slots = arguments.slots or model.slots or _default_slots(batch, len(group))
    config = DeviceConfig(
        identity=Identity(
            name=arguments.name or f"{socket.gethostname()}:{','.join(map(str, group))}",
            model_name=model.name,
            bmodel_sha256=sha256,
            chips=group,
            runtime_kind=library.kind,
        ),
        max_waiting=arguments.max_waiting,
        itl_budget_s=arguments.itl_budget_ms / 1000,
        policy=Policy(PrefixMode(arguments.prefix_cache), arguments.preempt_host_bytes),
        allow_dumps=arguments.allow_dumps,
    )
    open_engine = functools.partial(
        CoreEngine,
        [part.source for part in parts],
        library.directory,
        emulator=library.emulator,
        chips=group,
        slots=slots,
        memories=memories,
        vocab_size=_config_vocab_size(model.config),
        deterministic=arguments.deterministic,
        # That driver's runtime takes weights from the file as they are.
        decrypt_whole=library.kind == "soc",
    )
    return config, open_engine


@dataclass(frozen=True, slots=True)
class _Part:
    """source: what the engine loads."""

    source: Path | encryption.Opened
    nets: bmodel.Bmodel


def _read_part(path: Path, key_file: Path | None) -> _Part:
    """Raises OSError or ValueError."""
    opened = encryption.unlock(path, key_file)
    if opened is None:
        return _Part(path, bmodel.read(path))
    return _Part(opened, encryption.read_bmodel(opened))


def _model_sha256(model: model_dir.ModelDir, parts: Sequence[_Part]) -> str:
    """Of the plain bmodels. Raises OSError or ValueError."""
    sources = [part.source for part in parts]
    if any(isinstance(source, Path) for source in sources):
        return model_dir.bmodel_sha256(model)
    # What a hash would find, decrypting finds: no need to read the files twice.
    return model_dir.joined_sha256(
        source.container.public.sha256
        for source in sources
        if isinstance(source, encryption.Opened)
    )


def _group(asked: tuple[int, ...] | None, parts: int) -> tuple[int, ...]:
    """One chip group. Raises ValueError unless it has a chip for each part of the model."""
    groups = chips.groups(asked, parts)
    if len(groups) > 1:
        raise ValueError(
            f"--devices names {len(asked or ())} chips, the model was compiled for {parts}: a "
            "device service runs one group"
        )
    return groups[0]


def _default_slots(batch: int, chips: int) -> int:
    """Enough that each chip can work on requests of its own."""
    return batch * chips if batch > 1 else max(DEFAULT_SLOTS, 2 * chips)


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
