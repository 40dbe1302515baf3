"""The processes of a whole server: per model a tokenizer and its devices, and one gateway."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tpuserve import chips, model_dir
from tpuserve.cli.supervisor import Child


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model and the chip groups that run it, each with a device service."""

    model: model_dir.ModelDir
    groups: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Device:
    """A device service: its process's name and where it listens."""

    name: str
    address: str
    served: ServedModel
    group: tuple[int, ...]


def load_models(
    directories: Sequence[Path], devices: Sequence[tuple[int, ...]]
) -> tuple[ServedModel, ...]:
    """devices: the chips of each model; none for as many as it needs, of the lowest numbers.

    Raises ValueError.
    """
    if devices and len(devices) != len(directories):
        raise ValueError(
            f"--devices is given {len(devices)} times for {len(directories)} models: give it once "
            "for each, in their order, or not at all"
        )
    served: list[ServedModel] = []
    for number, directory in enumerate(directories):
        model = model_dir.load(directory)
        same = next((other for other in served if other.model.name == model.name), None)
        if same is not None:
            raise ValueError(
                f"{same.model.path} and {model.path} are both called {model.name}: clients choose "
                "by name, which tpuserve.toml gives"
            )
        groups = chips.groups(devices[number] if devices else None, model.chips)
        served.append(ServedModel(model, tuple(groups)))
    return tuple(served)


def devices_of(served: Sequence[ServedModel], sockets: Path) -> tuple[Device, ...]:
    places = [(each, group) for each in served for group in each.groups]
    names = _numbered("device", len(places))
    return tuple(
        Device(name, f"unix:{sockets / name}", each, group)
        for name, (each, group) in zip(names, places, strict=True)
    )


def children(
    args: argparse.Namespace,
    devices: Sequence[Device],
    gateway_listens: Sequence[str],
    sockets: Path,
    metrics_address: Callable[[int], str],
) -> tuple[Child, ...]:
    """In starting order; they are stopped in the reverse one.

    gateway_listens: the gateway's options for it. metrics_address: of the n-th port behind
    `--metrics-port`.
    """
    served = list(dict.fromkeys(device.served.model.path for device in devices))
    tokenizers = (
        ["tokenizer"] if len(served) == 1 else [f"tokenizer{i}" for i in range(len(served))]
    )
    names = [*tokenizers, *(device.name for device in devices)]
    metrics: dict[str, list[str]] = {name: [] for name in names}
    if args.metrics_port is not None:
        for number, option in enumerate(metrics.values()):
            option += ["--metrics-listen", metrics_address(number)]
    addresses = {name: f"unix:{sockets / name}" for name in tokenizers}
    commands = {
        name: ["tokenizer_svc", "--model", str(path), "--listen", addresses[name], *metrics[name]]
        for name, path in zip(tokenizers, served, strict=True)
    }
    options = _device_options(args)
    for device in devices:
        commands[device.name] = [
            *["device_svc", "--model", str(device.served.model.path), "--listen", device.address],
            *[*metrics[device.name], *options, "--devices", ",".join(map(str, device.group))],
        ]
    commands["gateway"] = [
        "gateway",
        *(word for address in addresses.values() for word in ("--tokenizer", address)),
        *(word for device in devices for word in ("--device", device.address)),
        *gateway_listens,
    ]
    launcher = [sys.executable, "-m", "tpuserve.cli.child", str(os.getpid())]
    return tuple(
        Child(name, (*launcher, *command, "--log-level", args.log_level))
        for name, command in commands.items()
    )


def _numbered(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}{i}" for i in range(count)]


def _device_options(args: argparse.Namespace) -> list[str]:
    options = [] if args.slots is None else ["--slots", str(args.slots)]
    if args.itl_budget_ms is not None:
        options += ["--itl-budget-ms", str(args.itl_budget_ms)]
    if args.deterministic:
        options.append("--deterministic")
    if args.allow_dumps:
        options.append("--allow-dumps")
    if args.key_file is not None:
        options += ["--key-file", str(args.key_file)]
    for root in args.swap_root:
        options += ["--swap-root", str(root.resolve())]
    return [*options, "--runtime", args.runtime]
