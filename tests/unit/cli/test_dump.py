from __future__ import annotations

from pathlib import Path

import pytest

from tpuserve.cli.__main__ import main


def test_a_device_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "a.npz"
    device = f"unix:{tmp_path}/none"
    assert main(["dump", "--ids", "1,2", "-o", str(output), "--device", device]) == 1
    assert capsys.readouterr().err == f"tpuserve: the device {device} is not reachable\n"
    assert not output.exists()
