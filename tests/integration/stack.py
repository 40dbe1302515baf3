"""The three services as a user runs them: real processes, the demo model, the chip emulator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.processes import Stack, stack

DEMO: Final = Path(__file__).resolve().parents[2] / "models" / "demo"


@contextmanager
def start_stack(
    model_dir: Path = DEMO, *, device_arguments: tuple[str, ...] = ()
) -> Iterator[Stack]:
    """Serving when the block begins; its gRPC `address` and `http_url` are on loopback."""
    emulator = ("--runtime", "emulator", *device_arguments)
    with stack(model_dir, device_module="device_svc", device_arguments=emulator) as running:
        yield running
