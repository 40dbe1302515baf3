"""Doctor on the emulator: the real probe process opens the real libraries."""

from __future__ import annotations

from tpuserve.cli import doctor
from tpuserve.cli.__main__ import main


def test_finds_the_emulator_and_its_chip() -> None:
    found = {check.subject: check for check in doctor.examine("emulator")}
    assert found["emulator"].status == "ok"
    assert found["runtime opens"].status == "ok"
    assert "1 chip" in found["runtime opens"].detail
    assert found["chip 0"].status == "ok"


def test_a_machine_in_order_is_status_0() -> None:
    assert main(["doctor", "--runtime", "emulator"]) == 0
