"""Writes the bmodel of a simulated model, all nets and no weights, from a profile's [model].

    python -m tests.support.simchip_bmodel profile.toml -o MODEL_DIR [--config CONFIG_DIR]

The file has a header and a description as the compiler's, so every reader of bmodels takes it;
tensors lie where the compiler would put them: behind each slot's K and V is one row of scratch.
docs/simchip.md describes the keys of the table.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tpuserve.bmodel.flatbuffer_writer import U32, U64, Bytes, Table, U64s, build

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PAGE: Final = 4096
_BASE: Final = 0x100000000
_DTYPES: Final = {"float32": 0, "float16": 1, "int32": 6, "bfloat16": 8}
_BYTES: Final = {"float32": 4, "float16": 2, "int32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Shape:
    """The model to describe. `decode` holds (rows, length) of each decode variant.

    slots: pairs of history inputs of the decode nets; above 1 the nets are batched.
    prefill: "history" (any chunk after any other), "dynamic" or "static" (one chunk only).
    """

    layers: int
    hidden_size: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    prefill_chunk: int
    decode: tuple[tuple[int, int], ...]
    slots: int = 1
    prefill: str = "history"
    head: str = "logits"
    dtype: str = "float16"
    greedy_head: bool = False

    @property
    def context_length(self) -> int:
        return max(length for _, length in self.decode)

    @property
    def row_bytes(self) -> int:
        return self.kv_heads * self.head_dim * _BYTES[self.dtype]

    @property
    def row_ladder(self) -> tuple[int, ...]:
        """Rows of the head and of the decode embedding, most first; 1 is always there."""
        return tuple(sorted({1, *(rows for rows, _ in self.decode)}, reverse=True))


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    dtype: str
    dims: tuple[int, ...]
    address: int

    @property
    def size_bytes(self) -> int:
        size = _BYTES[self.dtype]
        for dim in self.dims:
            size *= dim
        return size


@dataclass(slots=True)
class Area:
    """Hands out addresses page by page."""

    base: int
    size: int = 0

    def place(self, name: str, dtype: str, *dims: int, extra_bytes: int = 0) -> Tensor:
        tensor = Tensor(name, dtype, dims, self.base + self.size)
        self.size += -(-(tensor.size_bytes + extra_bytes) // _PAGE) * _PAGE
        return tensor


@dataclass(slots=True)
class Variant:
    scratch: Area
    io: Area | None = None
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Net:
    name: str
    variants: list[Variant]
    dynamic: bool = False


def model_shape(table: dict[str, Any]) -> Shape:
    """From the table [model] of a profile. Raises ValueError or TypeError."""
    given = {key: value for key, value in table.items() if key != "decode"}
    shape = Shape(**given, decode=tuple((rows, length) for rows, length in table["decode"]))
    if shape.prefill not in ("history", "dynamic", "static"):
        raise ValueError(f"prefill is {shape.prefill!r}, must be history, dynamic or static")
    if shape.head not in ("logits", "argmax"):
        raise ValueError(f"head is {shape.head!r}, must be logits or argmax")
    if any(rows > shape.slots for rows, _ in shape.decode):
        raise ValueError(f"a decode variant has more rows than the {shape.slots} slots")
    if (shape.slots, shape.context_length) not in shape.decode:
        raise ValueError(f"decode lacks [{shape.slots}, {shape.context_length}], the largest")
    return shape


def bmodel_bytes(shape: Shape) -> bytes:
    """A whole file. Its description holds no weights."""
    return bmodel_parts(shape, 1)[0]


def bmodel_parts(shape: Shape, chips: int) -> list[bytes]:
    """A file for each chip of a group: a run of layers each, as equal as can be."""
    parts: list[list[Net]] = [[] for _ in range(chips)]
    for net in _nets(shape):
        number = net.name.rpartition("_")[2]
        edge = shape.layers - 1 if net.name.endswith("head") else 0
        layer = int(number) if number.isdigit() else edge
        parts[layer * chips // shape.layers].append(net)
    return [_file(nets) for nets in parts]


def _file(nets: Sequence[Net]) -> bytes:
    description = build(_root(nets))
    return struct.pack("<4I48x", 0xFF55AAEE, 64, len(description), 0) + description


def write_model_dir(profile: Path, target: Path, config: Path, *, chips: int = 1) -> Path:
    """`target` becomes a model directory; `config` is where its tokenizer files are."""
    table = tomllib.loads(profile.read_text(encoding="utf-8"))["model"]
    parts = bmodel_parts(model_shape(table), chips)
    target.mkdir(parents=True, exist_ok=True)
    names = [f"simchip.chip{chip}.bmodel" for chip in range(chips)]
    for name, data in zip(names, parts, strict=True):
        (target / name).write_bytes(data)
    hashes = [hashlib.sha256(data).hexdigest() for data in parts]
    # A list of JSON strings is also one of TOML.
    (target / "tpuserve.toml").write_text(
        f'[model]\nname = "{profile.stem}"\nbmodel = {json.dumps(names)}\n'
        f'config = "{config.resolve()}"\nslots = {chips * table.get("slots", 1)}\n'
        f"sha256 = {json.dumps(hashes)}\n",
        encoding="utf-8",
    )
    return target


def _nets(shape: Shape) -> Iterator[Net]:
    chunk, hidden, dtype = shape.prefill_chunk, shape.hidden_size, shape.dtype
    yield Net("embedding", [_embedding("embedding", shape, (1, chunk))])
    yield Net(
        "embedding_cache",
        [_embedding("embedding_cache", shape, (rows, 1)) for rows in shape.row_ladder],
    )
    for layer in range(shape.layers):
        yield Net(f"block_{layer}", [_prefill(shape)], dynamic=shape.prefill != "static")
        if shape.prefill == "history":
            yield Net(f"block_kv_{layer}", [_prefill_with_history(shape)], dynamic=True)
        yield Net(f"block_cache_{layer}", _decode(shape))
    heads = []
    for rows in shape.row_ladder:
        area = Area(_BASE)
        heads.append(Variant(area, inputs=[area.place("hidden_states", dtype, rows, hidden)]))
        out = (
            ("token_id", "int32", 1)
            if shape.head == "argmax"
            else ("logits", "float32", shape.vocab_size)
        )
        heads[-1].outputs = [area.place(out[0], out[1], rows, out[2])]
    yield Net("lm_head", heads)
    if shape.greedy_head:
        yield Net("greedy_head", _greedy(shape))


def _embedding(name: str, shape: Shape, ids: tuple[int, int]) -> Variant:
    area = Area(_BASE)
    given = area.place("input_ids", "int32", *ids)
    return Variant(
        area, inputs=[given], outputs=[area.place(name, shape.dtype, *ids, shape.hidden_size)]
    )


def _prefill_outputs(area: Area, shape: Shape) -> list[Tensor]:
    kv = (1, shape.prefill_chunk, shape.kv_heads, shape.head_dim)
    return [
        area.place("output_states", shape.dtype, 1, shape.prefill_chunk, shape.hidden_size),
        area.place("k_cache", shape.dtype, *kv),
        area.place("v_cache", shape.dtype, *kv),
    ]


def _prefill_inputs(area: Area, shape: Shape) -> list[Tensor]:
    chunk = shape.prefill_chunk
    return [
        area.place("input_states", shape.dtype, 1, chunk, shape.hidden_size),
        area.place("position_ids", "int32", 1, chunk),
    ]


def _prefill(shape: Shape) -> Variant:
    area = Area(_BASE)
    inputs = _prefill_inputs(area, shape)
    if shape.prefill == "static":
        chunk = shape.prefill_chunk
        inputs.append(area.place("attention_mask", shape.dtype, 1, 1, chunk, chunk))
    return Variant(area, inputs=inputs, outputs=_prefill_outputs(area, shape))


def _prefill_with_history(shape: Shape) -> Variant:
    area = Area(_BASE)
    inputs = _prefill_inputs(area, shape)
    history = (1, shape.context_length, shape.kv_heads, shape.head_dim)
    inputs += [area.place(name, shape.dtype, *history) for name in ("history_k", "history_v")]
    return Variant(area, inputs=inputs, outputs=_prefill_outputs(area, shape))


def _decode(shape: Shape) -> list[Variant]:
    """The largest variant places the tensors; the others use the same addresses."""
    largest = _largest_decode(shape)
    sizes = sorted(set(shape.decode), reverse=True)
    return [_smaller_decode(largest, shape, rows, length) for rows, length in sizes]


def _largest_decode(shape: Shape) -> Variant:
    io = Area(_BASE)
    rows, length = shape.slots, shape.context_length
    inputs = [
        io.place("input_states", shape.dtype, rows, 1, shape.hidden_size),
        io.place("position_ids", "int32", rows, 1),
        io.place("attention_mask", shape.dtype, rows, 1, 1, length + 1),
    ]
    for slot, kind in itertools.product(range(shape.slots), "kv"):
        inputs.append(
            io.place(
                f"history_{kind}_{slot}",
                shape.dtype,
                *(1, length, shape.kv_heads, shape.head_dim),
                extra_bytes=shape.row_bytes,
            )
        )
    outputs = [io.place("output_states", shape.dtype, rows, 1, shape.hidden_size)]
    return Variant(Area(io.base + io.size, _PAGE), io=io, inputs=inputs, outputs=outputs)


def _smaller_decode(largest: Variant, shape: Shape, rows: int, length: int) -> Variant:
    """K and V of the new token come out behind the history; of an idle slot, its first row."""
    dims = [(rows, 1, shape.hidden_size), (rows, 1), (rows, 1, 1, length + 1)]
    history = (1, length, shape.kv_heads, shape.head_dim)
    dims += [history] * (2 * shape.slots)
    inputs = [
        Tensor(tensor.name, tensor.dtype, size, tensor.address)
        for tensor, size in zip(largest.inputs, dims, strict=True)
    ]
    states = largest.outputs[0]
    outputs = [Tensor(states.name, states.dtype, dims[0], states.address)]
    for index, tensor in enumerate(inputs[3:]):
        behind = length * shape.row_bytes if index // 2 < rows else 0
        outputs.append(
            Tensor(
                tensor.name.replace("history_k", "k_cache").replace("history_v", "v_cache"),
                shape.dtype,
                (1, 1, shape.kv_heads, shape.head_dim),
                tensor.address + behind,
            )
        )
    return Variant(largest.scratch, largest.io, inputs, outputs)


def _greedy(shape: Shape) -> list[Variant]:
    variants = []
    for rows in shape.row_ladder:
        io = Area(_BASE)
        logits = io.place("m_logits", "float32", rows, shape.vocab_size)
        tokens = io.place("token_id", "int32", rows, 1)
        scratch = Area(io.base + io.size, _PAGE)
        variants.append(Variant(scratch, io=io, inputs=[logits], outputs=[tokens]))
    return variants


# Field numbers are those of bmodel.fbs; tpuserve.bmodel.reader names them.
def _root(nets: Sequence[Net]) -> Table:
    return Table(
        {
            1: Bytes(b"simchip", text=True),
            3: Bytes(b"BM1684X", text=True),
            4: [_net(net) for net in nets],
        }
    )


def _net(net: Net) -> Table:
    io_alone = net.variants[0].io is not None
    return Table(
        {
            0: Bytes(net.name.encode(), text=True),
            3: [_parameter(variant, dynamic=net.dynamic) for variant in net.variants],
            5: U32(int(io_alone)),
        }
    )


def _parameter(variant: Variant, *, dynamic: bool) -> Table:
    fields: dict[int, Any] = {
        0: [_tensor(tensor) for tensor in variant.inputs],
        1: [_tensor(tensor) for tensor in variant.outputs],
        2: U64(variant.scratch.base),
        3: U64(variant.scratch.size),
        5: U32(int(dynamic)),
    }
    if variant.io is not None:
        fields |= {17: U64(variant.io.base), 18: U64(variant.io.size)}
    return Table(fields)


def _tensor(tensor: Tensor) -> Table:
    return Table(
        {
            0: Bytes(tensor.name.encode(), text=True),
            1: U32(_DTYPES[tensor.dtype]),
            3: U64(tensor.address),
            5: [Table({0: U64s(tensor.dims)})],
        }
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="model directory")
    parser.add_argument("--config", type=Path, default=Path("models/demo/config"))
    arguments = parser.parse_args(argv)
    print(write_model_dir(arguments.profile, arguments.output, arguments.config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
