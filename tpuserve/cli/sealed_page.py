"""What `inspect` shows of an encrypted bmodel without its key."""

from __future__ import annotations

import dataclasses
import json

import msgspec

from tpuserve.bmodel import MemoryBudget
from tpuserve.cli import text
from tpuserve.cli.memory_rows import memory_rows
from tpuserve.encryption import Container


def show(container: Container, *, as_json: bool) -> str:
    public = container.public
    if as_json:
        document = {"path": str(container.path), "encrypted": True, **msgspec.to_builtins(public)}
        return json.dumps(document, indent=2)
    head = [
        ("bmodel", f"{container.path}, encrypted (AES-256-GCM); --key-file FILE shows the rest"),
        ("chip", f"{public.chip}, compiler {public.compiler}"),
        ("plain file", f"{text.size(container.plain_bytes)}, SHA-256 {public.sha256}"),
        ("weights", f"{sum(section.weights for section in container.header.sections)} blocks"),
    ]
    # A later version may have written more of them.
    known = {field.name for field in dataclasses.fields(MemoryBudget)}
    memory = MemoryBudget(**{name: size for name, size in public.memory.items() if name in known})
    blocks = [text.table(head), "", "device memory on each chip"]
    return "\n".join([*blocks, text.table(memory_rows(memory, None))])
