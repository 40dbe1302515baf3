"""The engine as Python sees it, on the chip emulator."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from device_svc import _core
from tpuserve import runtime_library

ROOT = Path(__file__).parents[3]
BMODEL = ROOT / "models/demo/demo_f16.bmodel"


@pytest.fixture(scope="module")
def library() -> _core.Library:
    found = runtime_library.find("emulator")
    return _core.Library(str(found.directory), emulator=found.emulator)


@pytest.fixture
def engine(library: _core.Library) -> Iterator[_core.Engine]:
    engine = _core.Engine(library, [str(BMODEL)], slots=2)
    yield engine
    engine.close()


def ids(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def test_the_library_describes_itself(library: _core.Library) -> None:
    assert library.emulator
    assert Path(library.directory).is_dir()
    assert "libbmrt_version" in library.version
    assert library.chip_count() == 1
    status = library.chip_status(0)
    assert status.chip == 0
    assert status.clock_hz == 1_000_000_000
    assert status.memory_total_bytes is None
    assert status.power_watts is None


def test_the_spec_lists_what_was_found(engine: _core.Engine) -> None:
    spec = engine.spec
    assert spec.head == "logits"
    assert spec.dtype == "float16"
    assert spec.history
    assert spec.max_prompt_length == spec.context_length - 1
    assert "history" in spec.features
    assert spec.features == sorted(spec.features)
    nets = {net.name: net for net in spec.nets}
    decode = nets["block_cache_0"]
    assert decode.io_alone
    assert not decode.dynamic
    inputs, outputs = decode.variants[0]
    assert inputs[0].shape == (1, 1, spec.hidden_size)
    assert inputs[1].dtype == "int32"
    assert outputs[1].shape == (1, 1, spec.kv_heads, spec.head_dim)
    assert len(nets) == len(spec.nets)


def test_prefill_returns_one_row_and_decode_one_for_each_slot(engine: _core.Engine) -> None:
    vocab_size = engine.spec.vocab_size
    assert engine.prefill(0, ids(1, 2), 0, last=False) is None
    row = engine.prefill(1, ids(1, 2, 3), 0)
    assert row is not None
    assert row.dtype == np.float32
    assert row.shape == (vocab_size,)
    rows = engine.decode([1, 0], ids(4, 5))
    assert rows.dtype == np.float32
    assert rows.shape == (2, vocab_size)
    assert (engine.length(0), engine.length(1)) == (3, 4)
    assert engine.launches > 0
    engine.copy_prefix(1, 0, 2)
    engine.free(1)
    assert (engine.length(0), engine.length(1)) == (2, 0)


def test_results_outlive_the_engine(library: _core.Library) -> None:
    engine = _core.Engine(library, [str(BMODEL)])
    row = engine.prefill(0, ids(1), 0)
    assert row is not None
    assert row.flags.owndata
    before = row.copy()
    engine.decode([0], ids(7))
    engine.close()
    del engine
    gc.collect()
    np.testing.assert_array_equal(row, before)


def test_arrays_are_taken_as_they_are_or_refused(engine: _core.Engine) -> None:
    with pytest.raises(ValueError, match="ids: expected dtype int32, not int64"):
        engine.prefill(0, np.array([1]), 0)
    with pytest.raises(ValueError, match="ids: expected 1 dimension, not 2"):
        engine.prefill(0, ids(1, 2).reshape(1, 2), 0)
    with pytest.raises(ValueError, match="C-contiguous"):
        engine.prefill(0, ids(1, 2, 3, 4)[::2], 0)
    with pytest.raises(ValueError, match="one for each of 1 slots, not 2"):
        engine.decode([0], ids(1, 2))
    assert engine.length(0) == 0


def test_errors_are_of_the_documented_types(library: _core.Library, tmp_path: Path) -> None:
    with pytest.raises(_core.LibraryError, match="libbmlib"):
        _core.Library(str(tmp_path))
    broken = tmp_path / "broken.bmodel"
    broken.write_bytes(BMODEL.read_bytes()[:10_000])
    with pytest.raises(_core.BmodelError, match="truncated"):
        _core.Engine(library, [str(broken)])
    with pytest.raises(ValueError, match="chip 8 does not exist"):
        _core.Engine(library, [str(BMODEL)], chips=[8])
    with pytest.raises(ValueError, match="slots = 0"):
        _core.Engine(library, [str(BMODEL)], slots=0)
    for error in (_core.LibraryError, _core.DeviceError, _core.BmodelError, _core.LaunchError):
        assert issubclass(error, _core.CoreError)
    assert issubclass(_core.CoreError, RuntimeError)


def test_a_closed_engine_says_so(library: _core.Library) -> None:
    engine = _core.Engine(library, [str(BMODEL)])
    engine.close()
    engine.close()
    with pytest.raises(_core.CoreError, match="the engine is closed"):
        engine.decode([0], ids(1))
    with pytest.raises(_core.CoreError, match="the engine is closed"):
        engine.length(0)
    assert engine.spec.layers > 0


def test_other_threads_run_while_the_chip_works(engine: _core.Engine) -> None:
    chunk = np.zeros(engine.spec.prefill_chunk, np.int32)
    started = threading.Event()
    took_s = 0.0

    def work() -> None:
        nonlocal took_s
        started.set()
        begin = time.perf_counter()
        engine.prefill(0, chunk, 0)
        took_s = time.perf_counter() - begin

    worker = threading.Thread(target=work)
    worker.start()
    started.wait()
    stamps = [time.perf_counter()]
    while worker.is_alive():
        stamps.append(time.perf_counter())
    worker.join()
    # A held GIL would stop this thread for as long as the prefill takes.
    assert max(b - a for a, b in itertools.pairwise(stamps)) < took_s / 2
