from __future__ import annotations

import argparse

import pytest

from tpuserve import chips


def test_a_list_keeps_its_order() -> None:
    assert chips.chip_list("3,1,2") == (3, 1, 2)


@pytest.mark.parametrize("text", ["", "1,", "a", "1,1", "0,-1"])
def test_what_is_no_list_is_named(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}'"):
        chips.chip_list(text)


def test_chips_make_groups() -> None:
    assert chips.groups((4, 5, 2, 3), 2) == [(4, 5), (2, 3)]
    assert chips.groups(None, 2) == [(0, 1)]
    with pytest.raises(ValueError, match=r"3 chips \(0,1,2\) do not make groups of 2"):
        chips.groups((0, 1, 2), 2)
