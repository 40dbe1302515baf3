"""Rates and gaps from stamps, and the predicted table from its profile."""

from __future__ import annotations

import pytest

from bench import batch, predicted


def test_only_the_time_in_which_all_decode_counts() -> None:
    first = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    second = [2.0, 3.0, 4.0, 6.0]
    rate, p50, p99 = batch._rows_of(2, [first, second])
    # From 2 s to 5 s: three tokens of one and two of the other.
    assert rate.value == pytest.approx(5 / 3)
    assert (p50.value, p99.value) == (1000, 1000)
    assert rate.name == " 2 at once: all together"


def test_the_predicted_table_is_layers_and_head() -> None:
    rows = {row.name: row.value for row in predicted.run().rows}
    assert rows["context 512, 16 rows: step"] == pytest.approx(28 * 3.10 + 11.1)
    assert rows["context 512, 16 rows: all together"] == pytest.approx(163.4, abs=0.1)
    assert rows["prefill chunk of 128"] == pytest.approx(151.2)
