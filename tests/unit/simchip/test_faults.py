"""Faults that a profile plans, and what the core makes of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from device_svc import _core
from tests.support.simchip import BATCHED, ONE_ROW, copy_library, next_token, write_bmodel
from tests.support.simchip_abi import FAILURE, NOT_READY, NOT_SUPPORTED, SUCCESS, Simchip
from tests.unit.simchip.conftest import NewChip

IDS = np.array([1, 2, 3], np.int32)


@pytest.fixture
def engine(library: Callable[[str], Path], tmp_path: Path) -> Callable[[str], _core.Engine]:
    def new(profile: str) -> _core.Engine:
        core = _core.Library(str(library(profile).parent))
        return _core.Engine(core, [str(write_bmodel(tmp_path / "m.bmodel", ONE_ROW))], slots=2)

    return new


def decoded(engine: _core.Engine, token: int) -> int:
    return int(engine.decode([0], np.array([token], np.int32))[0].argmax())


def test_the_third_launch_of_a_net_fails(engine: Callable[[str], _core.Engine]) -> None:
    served = engine('[[fault]]\nnet = "block_cache_1"\nlaunch = 3\nkind = "fail"')
    served.prefill(0, IDS, 0, last=True)
    decoded(served, 4)
    decoded(served, 5)
    with pytest.raises(_core.LaunchError, match="net block_cache_1 failed to launch on chip 0"):
        decoded(served, 6)
    # One launch fails, not those after it; the prompt is as good as before.
    served.prefill(0, IDS, 0, last=True)
    assert decoded(served, 4) == next_token([1, 2, 3, 4])


def test_any_launch_fails_by_its_number(engine: Callable[[str], _core.Engine]) -> None:
    served = engine('[[fault]]\nlaunch = 2\nkind = "fail"')
    with pytest.raises(_core.LaunchError, match="net block_0 failed"):
        served.prefill(0, IDS, 0, last=True)


def test_a_launch_that_hangs_times_out(engine: Callable[[str], _core.Engine]) -> None:
    served = engine('[[fault]]\nnet = "lm_head"\nlaunch = 1\nkind = "hang"\nseconds = 0.2')
    started = time.monotonic()
    with pytest.raises(_core.DeviceError, match=r"bm_thread_sync.*BM_ERR_TIMEOUT"):
        served.prefill(0, IDS, 0, last=True)
    assert 0.2 <= time.monotonic() - started < 5


@pytest.mark.parametrize("net", ["block_cache_0", "block_cache_2", "lm_head", "embedding_cache"])
def test_nan_reaches_the_logits_and_is_no_broken_rule(
    net: str, library: Callable[[str], Path], tmp_path: Path
) -> None:
    launch = 2 if net == "lm_head" else 1
    path = library(f'[[fault]]\nnet = "{net}"\nlaunch = {launch}\nkind = "nan"')
    bmodel = write_bmodel(tmp_path / "m.bmodel", ONE_ROW)
    served = _core.Engine(_core.Library(str(path.parent)), [str(bmodel)], slots=1)
    served.prefill(0, IDS, 0, last=True)
    logits = served.decode([0], np.array([4], np.int32))
    assert np.isnan(logits).all()
    sampler = _core.Sampler(_core.SamplingParams(), 64, IDS)
    [sampled] = _core.sample(logits.astype(np.float32), [sampler])
    assert (sampled.token, sampler.generated) == (-1, 0)
    assert "64 NaN of 64" in sampled.error
    assert Simchip(path).broken_rules == 0


def test_a_token_spoils_its_own_row_and_slot_only(
    library: Callable[[str], Path], tmp_path: Path
) -> None:
    path = library('[[fault]]\ntoken = 7\nkind = "nan"')
    bmodel = write_bmodel(tmp_path / "m.bmodel", BATCHED)
    served = _core.Engine(_core.Library(str(path.parent)), [str(bmodel)], slots=4)
    for slot in range(3):
        served.prefill(slot, IDS, 0, last=True)

    def step(token: int) -> list[bool]:
        return [
            bool(np.isnan(row).any())
            for row in served.decode([0, 1, 2], np.array([4, token, 5], np.int32))
        ]

    assert step(6) == [False, False, False]
    assert step(7) == [False, True, False]
    assert step(6) == [False, True, False]
    # Forgetting leaves the NaN where it is, wiping does not.
    served.free(1)
    served.prefill(1, IDS, 0, last=True)
    assert step(6) == [False, True, False]
    served.wipe(1)
    served.prefill(1, IDS, 0, last=True)
    assert step(6) == [False, False, False]
    assert Simchip(path).broken_rules == 0


def test_a_chip_in_status_fault_fails_every_call(new_chip: NewChip, tmp_path: Path) -> None:
    chip = new_chip('[[fault]]\nlaunch = 2\nkind = "chip_fault"')
    handle = chip.open()
    runtime = handle.runtime(write_bmodel(tmp_path / "m.bmodel", ONE_ROW))
    (variant,) = runtime.variants("embedding_cache")
    handle.upload(variant.inputs[0].address, np.zeros(1, np.int32))
    assert runtime.launch("embedding_cache", variant.inputs, variant.outputs)
    assert handle.sync() == SUCCESS
    assert handle.stat()[0] == SUCCESS
    assert not runtime.launch("embedding_cache", variant.inputs, variant.outputs)
    assert handle.stat()[0] == NOT_READY
    assert handle.sync() == NOT_READY
    assert handle.malloc(100)[0] == NOT_READY
    assert not runtime.launch("embedding_cache", variant.inputs, variant.outputs)
    assert chip.broken_rules == 0


def test_memory_that_runs_out_is_a_typed_error(
    library: Callable[[str], Path], tmp_path: Path
) -> None:
    bmodel = write_bmodel(tmp_path / "m.bmodel", ONE_ROW)
    core = _core.Library(str(library("[chip]\nmemory_bytes = 200_000").parent))
    with pytest.raises(_core.BmodelError, match="refused it"):
        _core.Engine(core, [str(bmodel)], slots=16)
    served = _core.Engine(core, [str(bmodel)], slots=1)
    served.prefill(0, IDS, 0, last=True)


def test_an_allocation_that_does_not_fit_is_out_of_memory(
    library: Callable[[str], Path], tmp_path: Path
) -> None:
    """Nets take all but less than a page; what the engine allocates itself no longer fits."""
    bmodel = write_bmodel(tmp_path / "m.bmodel", ONE_ROW)
    path = library("")
    chip = Simchip(path)
    handle = chip.open()
    runtime = handle.runtime(bmodel)
    used = chip.counter("used_bytes")
    runtime.destroy()
    handle.free()
    core = _core.Library(str(library(f"[chip]\nmemory_bytes = {used + 8}").parent))
    with pytest.raises(_core.DeviceError, match=r"bm_malloc_device_byte.*BM_ERR_NOMEM"):
        _core.Engine(core, [str(bmodel)], slots=1)


def test_readings(library: Callable[[str], Path], new_chip: NewChip) -> None:
    core = _core.Library(
        str(
            library(
                "[chip]\ncount = 2\nmemory_bytes = 1_073_741_824\ntemperature_celsius = 71\n"
                "power_watts = 12.5\nclock_mhz = 900"
            ).parent
        )
    )
    assert core.chip_count() == 2
    status = core.chip_status(1)
    assert (status.memory_total_bytes, status.memory_used_bytes) == (1 << 30, 0)
    assert (status.temperature_celsius, status.power_watts) == (71.0, 12.5)
    assert (status.clock_hz, status.utilisation_ratio) == (900_000_000, 0.0)
    handle = new_chip().open()
    handle.allocate(7 << 20)
    assert handle.stat()[1].used_mib == 7
    assert handle.chip.lib.bm_get_chip_temp(handle.number, None) == NOT_SUPPORTED


def test_without_a_profile_there_are_no_chips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TPUSERVE_SIMCHIP_PROFILE", raising=False)
    chip = Simchip(copy_library(tmp_path))
    assert chip.lib.bm_dev_getcount(None) == FAILURE
    assert "TPUSERVE_SIMCHIP_PROFILE is not set" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[chip", "line 1: expected ]"),
        ("[chip]\nmemory = 1", "line 2: table chip has no key memory"),
        ("[chip]\ncount = 0", "line 2: expected 1 to 64"),
        ("[chip]\ncount = 1.5", "line 2: expected an integer"),
        ("[chip]\ncount = 1\ncount = 2", "line 3: count is there twice"),
        ("[chip]\n[chip]", "line 2: table chip is there twice"),
        ("[chips]", "line 1: no table chips is known"),
        ("[latency.head]\nlaunch_us = 1", "line 1: no table latency.head is known"),
        ("[latency]\nscale = -1", "line 2: expected a number of at least 0"),
        ("[[fault]]\nlaunch = 1", "line 1: a fault needs kind, and launch or token"),
        ('[[fault]]\nlaunch = 1\nkind = "boom"', "line 3: expected fail, hang, nan or chip_fault"),
        ("[model]\nvocab_size = 2", "line 2: expected 3 to"),
        ("[chip]\ncount = one", "line 2: expected a value, not 'one'"),
        ("[model]\ndecode = [[1, 2]", "expected ,"),
        ('[[fault]]\nnet = "a\n', "line 2: a string must end on its line"),
    ],
)
def test_profiles_that_are_wrong_name_the_line(
    text: str, message: str, new_chip: NewChip, capfd: pytest.CaptureFixture[str]
) -> None:
    assert new_chip(text).lib.bm_dev_getcount(None) == FAILURE
    assert message in capfd.readouterr().err


def test_launches_take_the_time_of_the_profile(
    library: Callable[[str], Path], tmp_path: Path
) -> None:
    """3 layers of 2 ms + 1 ms a row + 2 MB at 2 GB/s, the head 5 ms, all at half of that."""
    path = library(
        "[latency]\nscale = 0.5\n"
        "[latency.block_cache]\nlaunch_us = 2000\nrow_us = 1000\n"
        "weight_bytes = 2_000_000\nweight_gb_per_s = 2.0\n"
        "[latency.lm_head]\nlaunch_us = 5000\n"
    )
    bmodel = write_bmodel(tmp_path / "m.bmodel", ONE_ROW)
    served = _core.Engine(_core.Library(str(path.parent)), [str(bmodel)], slots=1)
    served.prefill(0, IDS, 0, last=False)
    started = time.monotonic()
    for _ in range(10):
        decoded(served, 4)
    per_step_ms = (time.monotonic() - started) * 100
    assert 8.5 <= per_step_ms < 40
    reading = _core.Library(str(path.parent)).chip_status(0).utilisation_ratio
    assert reading is not None
    assert 0.1 < reading <= 1
