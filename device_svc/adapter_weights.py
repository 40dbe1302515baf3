"""Puts an adapter's numbers into the form that a bmodel's adapter weights have.

The compiler names each "lora.RANK.AXIS.LAYER.lora_A.weight" (or lora_B): RANK is the highest rank
that it takes, AXIS the one along which ranks follow each other. Ranks that the adapter lacks are
zeros, and so are layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tpuserve.adapter import Adapter, AdapterError

# Nets for these exist beside the others and are not run.
_WITHOUT_NETS: Final = ("embed_tokens", "lm_head")
_PAGE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class _Place:
    path: str
    rank: int
    axis: int
    layer: str
    part: str


def adapter_weights(
    adapter: Adapter, memory_bytes: Mapping[str, int], dtype: str
) -> Iterator[tuple[str, bytes]]:
    """The bytes of every adapter weight of a bmodel, by its path.

    memory_bytes: by path. dtype: "float16" or "bfloat16". Raises AdapterError.
    """
    places = [_place(path) for path in memory_bytes]
    if not places:
        raise AdapterError(
            f"{adapter.path}: the bmodel was compiled without adapters; compile it with a highest "
            "rank (llm_convert.py --lora_max_rank)"
        )
    usable = {place.layer for place in places if not place.layer.endswith(_WITHOUT_NETS)}
    unknown = sorted(adapter.weights.keys() - usable)
    if unknown:
        raise AdapterError(f"{adapter.path}: the bmodel takes no adapter for {unknown[0]}")
    for place in places:
        if place.layer not in adapter.weights:
            if place.layer in usable:
                yield place.path, b""
            continue
        if adapter.rank > place.rank:
            raise AdapterError(
                f"{adapter.path} has rank {adapter.rank}, the bmodel takes {place.rank} at most"
            )
        a, b = adapter.weights[place.layer]
        data = _encoded(a if place.part == "A" else b.T, place, dtype)
        # The bmodel tells whole pages only.
        if -(-len(data) // _PAGE_BYTES) * _PAGE_BYTES != memory_bytes[place.path]:
            raise AdapterError(
                f"{adapter.path}: lora_{place.part} of {place.layer} takes {len(data)} bytes, the "
                f"bmodel has {memory_bytes[place.path]}"
            )
        yield place.path, data


def _place(path: str) -> _Place:
    _, rank, axis, name = path.split(".", 3)
    layer, _, part = name.removesuffix(".weight").rpartition(".lora_")
    return _Place(path, int(rank), int(axis), layer, part)


def _encoded(rows: NDArray[np.float32], place: _Place, dtype: str) -> bytes:
    """rows: [rank of the adapter, width]."""
    padded = np.zeros((place.rank, rows.shape[1]), np.float32)
    padded[: len(rows)] = rows
    ordered = np.ascontiguousarray(padded.T if place.axis == 1 else padded)
    if dtype == "bfloat16":
        bits = ordered.view(np.uint32)
        # To nearest, ties to even.
        rounded = bits + 0x7FFF + ((bits >> 16) & 1)
        return (rounded >> 16).astype("<u2").tobytes()
    return ordered.astype("<f2").tobytes()
