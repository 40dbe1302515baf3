"""What `inspect` shows of an encrypted bmodel without its key."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import msgspec

from tpuserve.bmodel import MemoryBudget
from tpuserve.cli import text
from tpuserve.cli.memory_rows import memory_rows
from tpuserve.encryption import Container


def show(containers: Sequence[Container], *, as_json: bool) -> str:
    """As JSON an object, or a list of several."""
    if not as_json:
        return "\n\n".join(_page(container) for container in containers)
    documents = [
        {"path": str(each.path), "encrypted": True, **msgspec.to_builtins(each.public)}
        for each in containers
    ]
    return json.dumps(documents[0] if len(documents) == 1 else documents, indent=2)


def _page(container: Container) -> str:
    public = container.public
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
