"""Summaries and the printed report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import report, stats
from bench.report import Row, Section, at_least, at_most


def test_quantiles_are_samples() -> None:
    samples = [float(n) for n in range(100, 0, -1)]
    found = stats.summary(samples)
    assert (found.count, found.p50, found.p90, found.p99) == (100, 50, 90, 99)
    assert found.largest == 100
    assert stats.quantile([3.0], 0.99) == 3.0
    assert stats.quantile([1.0, 2.0], 0.0) == 1.0


def test_no_samples_are_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        stats.summary([])


def test_targets_are_judged() -> None:
    assert at_most("x", 3.0, "ms", 3).met is True
    assert at_most("x", 3.1, "ms", 3).met is False
    assert at_least("x", 97.0, "%", 97).met is True
    assert at_least("x", 96.9, "%", 97).met is False


def test_report_says_what_was_missed(tmp_path: Path) -> None:
    rows = (Row("plain", 1.5, "ms"), at_most("late", 12.0, "ms", 10), at_most("fast", 1, "ms", 3))
    section = Section("s", "Title", "How it was done.", rows)
    plain, late, fast = report.text(section).splitlines()[-3:]
    assert plain.split() == ["plain", "1.500", "ms"]
    assert late.endswith("MISSED")
    assert fast.endswith("met")
    file = tmp_path / "report.json"
    report.write_json(file, {"cpus": 2}, [section])
    document = json.loads(file.read_text(encoding="utf-8"))
    assert document["machine"] == {"cpus": 2}
    assert document["sections"][0]["rows"][1] == {
        "name": "late",
        "value": 12.0,
        "unit": "ms",
        "target": "≤ 10",
        "met": False,
    }
