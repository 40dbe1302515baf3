"""The reader against files of the compiler, and against damaged ones."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from tpuserve import bmodel
from tpuserve.bmodel import BmodelFileError

ROOT = Path(__file__).resolve().parents[3]
FIXTURES = ROOT / "tests" / "fixtures" / "models"
STATIC = FIXTURES / "static" / "demo_f16_static.bmodel"
HISTORY = ROOT / "models" / "demo" / "demo_f16.bmodel"
EVERY = [HISTORY, *sorted(p for p in FIXTURES.glob("*/*.bmodel") if ".chip" not in p.name)]
HEADER_BYTES = 64


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_reads_what_the_compiler_wrote(path: Path) -> None:
    content = bmodel.read(path)
    assert content.chip == "BM1684X"
    assert content.devices == 1
    assert content.file_bytes == path.stat().st_size
    assert content.kernel_bytes == 0
    names = {net.name for net in content.nets}
    kind = path.parent.name
    layers = {"block_0", "block_cache_2"}
    if kind == "window":
        layers = {f"glm_{name}" for name in layers}
    assert {"lm_head", *layers} <= names
    assert ("embedding" in names) == (kind != "disk")
    assert ("embedding_cache" in names) == (kind not in ("disk", "window"))
    for net in content.nets:
        assert net.variants
        for variant in net.variants:
            assert variant.instruction_bytes > 0
            for tensor in (*variant.inputs, *variant.outputs):
                assert tensor.dtype in {"bfloat16", "float16", "float32", "int32"}
                assert tensor.size_bytes > 0
                assert tensor.address > 0


def test_decode_variants_share_weights_and_inputs() -> None:
    net = bmodel.read(HISTORY).net("block_cache_1")
    assert net is not None
    assert (net.dynamic, net.io_alone) == (False, True)
    assert [variant.inputs[3].shape[1] for variant in net.variants] == [512, 256, 128, 64]
    assert net.variants[0].inputs[2].shape == (1, 1, 1, 513)
    assert len({variant.weights for variant in net.variants}) == 1
    assert len({variant.inputs[3].address for variant in net.variants}) == 1
    names = [tensor.name for tensor in net.variants[0].inputs]
    assert names == ["input_states", "position_ids", "attention_mask", "history_k", "history_v"]
    assert [tensor.name for tensor in net.variants[0].outputs][1:] == ["k_cache", "v_cache"]


def test_prefill_and_decode_share_weights() -> None:
    content = bmodel.read(STATIC)
    prefill, decode = content.net("block_0"), content.net("block_cache_0")
    assert prefill is not None
    assert decode is not None
    assert not prefill.dynamic
    assert prefill.variants[0].weights == decode.variants[0].weights
    assert content.net("block_99") is None


def damaged(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "damaged.bmodel"
    path.write_bytes(data)
    return path


def test_names_the_sizes_of_a_truncated_file(tmp_path: Path) -> None:
    data = STATIC.read_bytes()
    path = damaged(tmp_path, data[:-1])
    with pytest.raises(
        BmodelFileError, match=f"it has {len(data) - 1} bytes.*promises {len(data)}"
    ):
        bmodel.read(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes are too few; the header alone takes 64"),
        (b"\xee\xaa\x55\xff", "4 bytes are too few"),
        (b"GGUF" + bytes(100), "is not a bmodel: it starts with 0x46554747, not 0xFF55AAEE"),
        (struct.pack("<4I48x", 0xFF55AAEE, 80, 0, 0) + bytes(16), "takes 80 bytes, 64 are known"),
        (struct.pack("<4I48x", 0xFF55AAEE, 64, 0, 0), "description of 0 bytes is corrupt"),
        (struct.pack("<4I48x", 0xFF55AAEE, 64, 8, 0) + bytes(8), "corrupt or encrypted"),
    ],
)
def test_refuses_what_is_not_a_bmodel(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(BmodelFileError, match=message):
        bmodel.read(damaged(tmp_path, data))


def test_refuses_an_encrypted_description(tmp_path: Path) -> None:
    data = bytearray(STATIC.read_bytes())
    size = struct.unpack_from("<I", data, 8)[0]
    for position in range(HEADER_BYTES, HEADER_BYTES + size):
        data[position] ^= 0xFF
    with pytest.raises(BmodelFileError, match="corrupt or encrypted"):
        bmodel.read(damaged(tmp_path, bytes(data)))


def test_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BmodelFileError, match=r"nowhere.bmodel: No such file"):
        bmodel.read(tmp_path / "nowhere.bmodel")


def whole_of(description: bytes, data: bytes) -> bytes:
    """A file with another description before the old binary part, its header adjusted."""
    old = struct.unpack_from("<I", data, 8)[0]
    binary = data[HEADER_BYTES + old :]
    header = struct.pack("<4I48x", 0xFF55AAEE, HEADER_BYTES, len(description), len(binary))
    return header + description + binary


def test_survives_every_shortened_description(tmp_path: Path) -> None:
    data = STATIC.read_bytes()
    description = data[HEADER_BYTES : HEADER_BYTES + struct.unpack_from("<I", data, 8)[0]]
    nets = bmodel.read(STATIC).nets
    refused = 0
    for length in range(0, len(description), 509):
        try:
            shortened = bmodel.read(damaged(tmp_path, whole_of(description[:length], data)))
        except BmodelFileError:
            refused += 1
        else:
            # Only what the reader does not look at was cut off.
            assert shortened.nets == nets
    assert refused > 0.8 * len(description) / 509


def test_survives_random_changes(tmp_path: Path) -> None:
    """Whatever the bytes are: a description or a BmodelFileError, soon."""
    data = STATIC.read_bytes()
    description = data[HEADER_BYTES : HEADER_BYTES + struct.unpack_from("<I", data, 8)[0]]
    draw = random.Random(20)
    refused = 0
    for _ in range(150):
        changed = bytearray(description)
        for _ in range(draw.choice((1, 4, 64))):
            position = draw.randrange(len(changed))
            changed[position : position + 4] = draw.randbytes(4)
        try:
            bmodel.describe(bmodel.read(damaged(tmp_path, whole_of(bytes(changed), data))))
        except BmodelFileError:
            refused += 1
    assert refused > 10


def test_bounds_the_walk_through_tables_that_refer_to_each_other(tmp_path: Path) -> None:
    """Two million elements that all are the same net: few bytes, endless work."""
    count = 2_000_000
    vtable = struct.pack("<HHHHHHH", 14, 8, 0, 0, 0, 0, 4)  # field 4, the nets, at offset 4
    root_at = 4 + len(vtable) + 2
    table = struct.pack("<iI", root_at - 4, 4)
    vector = struct.pack("<I", count)
    description = struct.pack("<I", root_at) + vtable + b"\0\0" + table + vector
    with pytest.raises(BmodelFileError, match="refer to each other more often"):
        bmodel.read(damaged(tmp_path, whole_of(description + bytes(4096), STATIC.read_bytes())))
