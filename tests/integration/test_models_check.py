"""One row of `make models-check` in full, and what the table does with rows that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.check import __main__ as command
from models.check.families import ROWS
from models.check.row import Measured, Row
from tests.support.compiler_environment import prepared


@pytest.mark.timeout(900)
def test_llama3_from_checkpoint_to_streamed_answer(tmp_path: Path) -> None:
    prepared()
    row = next(row for row in ROWS if row.model == "llama3" and row.quantization == "f16")
    measured = row.measure(tmp_path)
    assert row.problems(measured) == []
    assert measured.cosine is not None
    assert measured.answers.startswith("chat 12/12")


def row_of(measured: Measured, weights: str = "f16") -> Row:
    return Row("some", weights, "static", lambda _: measured)


def test_a_row_holds_by_its_weights() -> None:
    measured = Measured(0.995, 10, 10)
    assert row_of(measured, "w4f16").problems(measured) == []
    assert row_of(measured).problems(measured) == ["cosine 0.995000 is below 0.999"]
    unlike = Measured(None, 8, 10, problems=("another answer",))
    assert row_of(unlike).problems(unlike) == ["another answer"]
    nothing = Measured(float("nan"), 0, 1)
    assert row_of(nothing).problems(nothing) == ["cosine nan is below 0.999"]


def test_the_table_goes_on_behind_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(work: Path) -> Measured:
        assert list(work.iterdir()) == []
        raise RuntimeError("no such net")

    good = row_of(Measured(0.99999, 9, 10, "chat 12/12"))
    assert command.run([Row("broken", "f16", "static", fails), good]) == 1
    printed = capsys.readouterr()
    assert "| broken | f16 | static | failed | failed | failed |" in printed.out
    assert "| some | f16 | static | 0.999990 | 9/10 | chat 12/12 |" in printed.out
    assert "no such net" in printed.err


def test_unknown_models_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.parse(["llama5"])
    assert "unknown models: llama5; known: " in capsys.readouterr().err
