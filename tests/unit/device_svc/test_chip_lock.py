"""Locks of chips, between threads with descriptors of their own as between processes."""

from __future__ import annotations

import threading
from pathlib import Path

from device_svc.chip_lock import loading


def test_one_at_a_time_on_each_chip(tmp_path: Path) -> None:
    order: list[str] = []
    entered, left = threading.Event(), threading.Event()

    def second() -> None:
        with loading((1, 2), tmp_path):
            entered.set()
            order.append("second")

    with loading((2, 0), tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        with loading((3,), tmp_path):
            order.append("another chip")
        assert not entered.wait(0.1)
        order.append("first")
        left.set()
    thread.join(10)
    assert order == ["another chip", "first", "second"]


def test_a_failure_gives_the_chips_back(tmp_path: Path) -> None:
    for _ in range(2):
        try:
            with loading((0, 1), tmp_path):
                raise RuntimeError
        except RuntimeError:
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "tpuserve-chip-0.lock",
        "tpuserve-chip-1.lock",
    ]
