"""Encrypted bmodels through the vendor runtime's decrypt function, on the chip emulator."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from device_svc import _core
from tpuserve import encryption, runtime_library

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "models/demo/demo_f16.bmodel"
STATIC = ROOT / "tests/fixtures/models/static/demo_f16_static.bmodel"
BATCHED = ROOT / "tests/fixtures/models/batch4/demo_f16_batch4.bmodel"


@pytest.fixture(scope="module")
def library() -> _core.Library:
    found = runtime_library.find("emulator")
    return _core.Library(str(found.directory), emulator=found.emulator)


class Sealed:
    """A bmodel encrypted, and the blocks that the runtime has asked for."""

    def __init__(self, source: Path, directory: Path) -> None:
        encryption.write_new_key(directory / "key")
        self.key = encryption.read_key(directory / "key")
        self.path = directory / "sealed.bmodel"
        encryption.encrypt_file(source, self.path, self.key)
        self.asked: list[int] = []

    def damage_block(self, block: int) -> None:
        """The first byte of a block of weights."""
        opened = encryption.open_container(self.path).unlock(self.key)
        wanted = [i for i, section in enumerate(opened.sections) if section.weights][block]
        data = bytearray(self.path.read_bytes())
        data[opened._starts[wanted]] ^= 1
        self.path.write_bytes(data)

    @contextmanager
    def source(self) -> Iterator[_core.EncryptedBmodel]:
        opened = encryption.open_container(self.path).unlock(self.key)
        with encryption.runtime_file(opened, with_weights=False) as file:

            def read(block: int, target: memoryview) -> None:
                self.asked.append(block)
                file.read(block, target)

            yield _core.EncryptedBmodel(
                str(self.path),
                file.path,
                token_prefix=file.token_prefix,
                block_bytes=file.block_bytes,
                read=read,
            )


def logits(engine: _core.Engine) -> NDArray[np.generic]:
    """Of a prefill and three greedy steps in the last slot."""
    slot = engine.slots - 1
    rows = [engine.prefill(slot, np.arange(3, 40, dtype=np.int32), 0)]
    for _ in range(3):
        assert rows[-1] is not None
        token = np.array([int(np.argmax(rows[-1]))], np.int32)
        rows.append(engine.decode([slot], token)[0])
    return np.stack([row for row in rows if row is not None])


@pytest.mark.parametrize("source", [DEMO, STATIC, BATCHED], ids=lambda path: path.stem)
def test_computes_what_the_plain_one_does(
    source: Path, library: _core.Library, tmp_path: Path
) -> None:
    sealed = Sealed(source, tmp_path)
    with sealed.source() as bmodel:
        engine = _core.Engine(library, [bmodel], slots=2)
    # The file in memory is closed: nothing is read later.
    found = logits(engine)
    engine.close()
    blocks = sum(s.weights for s in encryption.open_container(sealed.path).header.sections)
    assert sorted(sealed.asked) == list(range(blocks)), "each once, for both contexts"
    plain = _core.Engine(library, [str(source)], slots=2)
    assert np.array_equal(found, logits(plain))
    plain.close()


def test_takes_no_more_of_the_chip(library: _core.Library, tmp_path: Path) -> None:
    """The runtime finds the weights of the plain bmodel there: same size, same hash."""
    plain = _core.Engine(library, [str(DEMO)], slots=1)
    sealed = Sealed(DEMO, tmp_path)
    with sealed.source() as bmodel:
        engine = _core.Engine(library, [bmodel], slots=1)
    assert sealed.asked == []
    assert np.array_equal(logits(engine), logits(plain))
    engine.close()
    plain.close()


def test_damaged_weights_are_an_error_and_the_process_goes_on(
    library: _core.Library, tmp_path: Path
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "good").mkdir()
    bad, good = Sealed(DEMO, tmp_path / "bad"), Sealed(DEMO, tmp_path / "good")
    bad.damage_block(1)
    with (
        bad.source() as bmodel,
        pytest.raises(
            _core.BmodelError, match=r"sealed.bmodel is not what was encrypted: the \d+ bytes"
        ),
    ):
        _core.Engine(library, [bmodel], slots=2)
    with good.source() as bmodel:
        engine = _core.Engine(library, [bmodel], slots=1)
    plain = _core.Engine(library, [str(DEMO)], slots=1)
    assert np.array_equal(logits(engine), logits(plain))
    engine.close()
    plain.close()


def test_another_error_of_the_reader_becomes_the_load_s(
    library: _core.Library, tmp_path: Path
) -> None:
    sealed = Sealed(DEMO, tmp_path)
    with sealed.source() as bmodel:
        sealed.path.unlink()
        with pytest.raises(_core.BmodelError, match="No such file or directory"):
            _core.Engine(library, [bmodel], slots=1)


def test_keeps_no_descriptor(library: _core.Library, tmp_path: Path) -> None:
    sealed = Sealed(STATIC, tmp_path)

    def open_and_close() -> int:
        with sealed.source() as bmodel:
            _core.Engine(library, [bmodel], slots=1).close()
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    first = open_and_close()
    assert open_and_close() == first
