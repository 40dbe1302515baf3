"""Which directories a device may load, whether models fit, and which rows outlive the change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from device_svc.engine_api import ChipReading, Engine
from device_svc.prefix_cache import PrefixMode
from device_svc.swap import ModelPlan, allowed_directory, exchange_for, keeps_rows
from tpuserve import bmodel
from tpuserve.bmodel import KvIdentity, MemoryBudget
from tpuserve.errors import InvalidArgument, Overloaded, PermissionDenied

ROOT = Path(__file__).resolve().parents[3]
FIXTURES = ROOT / "tests" / "fixtures" / "models"


def never(*, memories: Sequence[MemoryBudget]) -> Engine:
    raise AssertionError(memories)


def model(name: str, *, shared: int, own: int) -> ModelPlan:
    """One slot that takes 10 bytes and 5 of scratch, and weights: those that all share, and own."""
    return ModelPlan(
        name=name,
        sha256=name,
        chips=(0,),
        slots=1,
        memories=(MemoryBudget(shared + own, 5, 4, 6),),
        weights=({"shared": shared, name: own},),
        kv=None,
        open_engine=never,
    )


OLD, NEW = model("old", shared=100, own=20), model("new", shared=100, own=30)


@pytest.mark.parametrize(
    ("total", "used", "alongside"),
    [
        # 135 are used; the new one needs 45 beside them.
        (180, None, True),
        (179, None, False),
        (145, None, False),
        (245, 200, True),
        (244, 200, False),
        (None, None, False),
    ],
)
def test_whether_both_fit(total: int | None, used: int | None, alongside: bool) -> None:
    reading = ChipReading(0, memory_total_bytes=total, memory_used_bytes=used)
    assert exchange_for(OLD, NEW, PrefixMode.EXACT, [reading], None).alongside is alongside
    if used is None:
        # The same from what is known of a chip that does not report.
        silent = exchange_for(OLD, NEW, PrefixMode.EXACT, [ChipReading(0)], total)
        assert silent.alongside is alongside


def test_what_does_not_fit_alone_is_refused_with_numbers() -> None:
    with pytest.raises(Overloaded, match=r"needs 145 bytes on chip 3, which has 144; 144 are free"):
        exchange_for(OLD, NEW, PrefixMode.EXACT, [ChipReading(3, 144)], None)


def test_a_model_for_other_chips_is_refused() -> None:
    readings = [ChipReading(0, 1000), ChipReading(1, 1000)]
    with pytest.raises(InvalidArgument, match="compiled for 1 chips, this device has 2"):
        exchange_for(OLD, NEW, PrefixMode.EXACT, readings, None)


def test_allowed_directories(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    for asked in ("a", "a/b", str(root / "a"), "a/../a/b", "."):
        assert allowed_directory(asked, [root]).is_relative_to(root)
    for asked in ("..", "../outside", str(tmp_path / "outside"), "link", "/", "none"):
        with pytest.raises(PermissionDenied, match="model_directory"):
            allowed_directory(asked, [root])
    with pytest.raises(InvalidArgument):
        allowed_directory("", [root])
    assert allowed_directory("outside", [root, tmp_path]) == tmp_path / "outside"


def kv_of(name: str) -> KvIdentity:
    path = next((FIXTURES / name).glob("*.bmodel"))
    found = bmodel.kv_identity(bmodel.read(path))
    assert found is not None
    return found


def test_rows_that_outlive_a_change() -> None:
    share, prompt, static = kv_of("share"), kv_of("prompt"), kv_of("static")
    # Equal weights, but other nets make the rows: their last bits may differ.
    assert keeps_rows(share, prompt, PrefixMode.FAST)
    assert not keeps_rows(share, prompt, PrefixMode.EXACT)
    assert keeps_rows(share, share, PrefixMode.EXACT)
    assert not keeps_rows(share, static, PrefixMode.FAST)
    assert not keeps_rows(share, share, PrefixMode.OFF)
    assert not keeps_rows(None, share, PrefixMode.FAST)
    other = replace(share, layout=(*share.layout[:3], "bfloat16"))
    assert not keeps_rows(share, other, PrefixMode.FAST)


def test_weights_in_common() -> None:
    blocks = {
        name: bmodel.weight_blocks(bmodel.read(next((FIXTURES / name).glob("*.bmodel"))))
        for name in ("share", "prompt", "static")
    }
    assert blocks["share"] == blocks["prompt"]
    both = blocks["share"].keys() & blocks["static"].keys()
    assert sum(blocks["share"][sha256] for sha256 in both) == 262144
