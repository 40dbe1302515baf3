"""`tpuserve compare` on arrays whose distances a person can compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tpuserve.cli.__main__ import main
from tpuserve.dumps import compare

Tensors = dict[str, NDArray[Any]]


def tensors() -> Tensors:
    return {
        "ids": np.array([5, 6, 7], np.int32),
        "k_0": np.arange(24, dtype=np.float16).reshape(3, 2, 4),
        "hidden_0": np.array([[1, 0], [0, 2], [3, 4]], np.float16),
    }


def saved(path: Path, arrays: Tensors) -> str:
    np.savez(path, allow_pickle=False, **arrays)
    return str(path)


def test_equal_ones() -> None:
    report = compare(tensors(), {name: a.astype(np.float64) for name, a in tensors().items()})
    assert [each.name for each in report.differences] == ["ids", "k_0", "hidden_0"]
    assert report.first_differing is None
    assert report.agrees(1.0)


def test_distances_of_a_row() -> None:
    other = tensors()
    other["hidden_0"] = np.array([[1, 0], [2, 0], [3, 4]], np.float32)
    report = compare(tensors(), other)
    assert report.first_differing is report.differences[2]
    found = report.differences[2]
    # Rows (0, 2) and (2, 0) are at a right angle; all numbers: 26 / 30.
    assert found.lowest_cos == 0
    assert found.cos == pytest.approx(26 / 30)
    assert found.max_abs == 2
    assert found.first_row == 1
    assert not report.agrees(0.5)
    assert report.agrees(0.0)


def test_zeros_and_what_is_no_number() -> None:
    zero, one = np.zeros((2, 2)), np.array([[0.0, 0.0], [np.nan, 1.0]])
    assert compare({"x": zero}, {"x": zero}).agrees(1.0)
    report = compare({"x": zero}, {"x": one})
    assert report.differences[0].lowest_cos == 0
    assert not report.agrees(0.1)
    assert not compare({"x": one}, {"x": one}).agrees(0.1)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"ids": np.array([5, 6, 8])}, "ids are not the same"),
        ({"k_0": np.zeros((3, 2, 5))}, "k_0 has the shapes (3, 2, 4) and (3, 2, 5)"),
        ({"k_1": np.zeros(1)}, "k_1 is in one file only"),
        ({"k_0": np.array(["text"] * 3)}, "k_0 has the shapes"),
        ({"hidden_0": np.zeros((3, 2), bool)}, "hidden_0 holds no real numbers"),
    ],
)
def test_what_cannot_agree(
    change: Tensors, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = saved(tmp_path / "a.npz", tensors())
    second = saved(tmp_path / "b.npz", {**tensors(), **change})
    assert main(["compare", first, second, "--min-cos", "-1"]) == 1
    assert problem in capsys.readouterr().out


def test_exit_status_follows_the_threshold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = saved(tmp_path / "a.npz", tensors())
    other = {**tensors(), "hidden_0": np.array([[1, 0.02], [0, 2], [3, 4]])}
    second = saved(tmp_path / "b.npz", other)
    assert main(["compare", first, second, "--min-cos", "0.999"]) == 0
    assert "first that differs: hidden_0" in capsys.readouterr().out
    assert main(["compare", first, second]) == 1
    assert "DO NOT agree at a cosine of 0.9999" in capsys.readouterr().out
    assert main(["compare", first, first]) == 0
    assert "all equal" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"text", b"PK\3\4 cut"])
def test_names_a_file_that_is_none(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    for arguments in ([str(path), str(path)], [str(tmp_path / "nowhere"), str(path)]):
        assert main(["compare", *arguments]) == 1
        assert "Traceback" not in capsys.readouterr().err
