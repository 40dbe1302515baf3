"""What doctor finds on machines that are trees in a temporary directory."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from tpuserve import emulator
from tpuserve.cli import checks, doctor
from tpuserve.cli.checks import Check

NO_EMULATOR = {"TPUSERVE_EMULATOR_DIR": "/nowhere"}
KERNEL_MODULE = "tpu_module/libbm1684x_kernel_module.so"


def write(root: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def card(root: Path, *, chips: int = 3, driver: str = "0.5.1") -> None:
    """A host with one card, its driver and libsophon 0.5.1."""
    version = f"release version:{driver}   release date: 20240630-1\n"
    write(root, {"proc/bmsophon/driver_version": version})
    for chip in range(chips):
        below = f"proc/bmsophon/card0/bmsophon{chip}"
        write(
            root,
            {
                f"dev/bm-sophon{chip}": "",
                f"{below}/status": "Active\n",
                f"{below}/chip_temp": "45 C\n",
                f"{below}/tpu_power": "N/A\n",
            },
        )
    lib = "opt/sophon/libsophon-0.5.1/lib"
    write(root, {f"{lib}/{name}": "" for name in ("libbmrt.so", "libbmlib.so", KERNEL_MODULE)})
    (root / "opt/sophon/libsophon-current").symlink_to("libsophon-0.5.1")


def by_subject(found: list[Check]) -> dict[str, Check]:
    return {check.subject: check for check in found}


def test_a_card_in_order(tmp_path: Path) -> None:
    card(tmp_path)
    found = list(checks.driver(tmp_path))
    assert {check.status for check in found} == {"ok"}
    subjects = by_subject(found)
    assert subjects["PCIe driver"].detail == "release version:0.5.1 release date: 20240630-1"
    assert subjects["chip nodes"].detail == "/dev/bm-sophon for chips 0, 1, 2"
    assert subjects["chip 2"].detail == "Active, 45 C"
    assert subjects["libsophon"].detail.startswith("0.5.1 in ")


def test_a_chip_at_fault(tmp_path: Path) -> None:
    card(tmp_path)
    write(tmp_path, {"proc/bmsophon/card0/bmsophon1/status": "Fault\n"})
    found = by_subject(list(checks.driver(tmp_path)))
    assert (found["chip 0"].status, found["chip 1"].status) == ("ok", "problem")
    assert "recovery" in found["chip 1"].advice


def test_no_nodes_in_the_container(tmp_path: Path) -> None:
    card(tmp_path, chips=0)
    found = by_subject(list(checks.driver(tmp_path)))["chip nodes"]
    assert found.status == "problem"
    assert "--device /dev/bm-sophon0" in found.advice


def test_nodes_without_proc(tmp_path: Path) -> None:
    write(tmp_path, {"dev/bm-sophon0": ""})
    found = by_subject(list(checks.driver(tmp_path)))
    assert found["PCIe driver"].status == "warning"
    assert found["libsophon"].status == "problem"
    assert "install libsophon" in found["libsophon"].advice


def test_other_and_old_versions(tmp_path: Path) -> None:
    card(tmp_path, driver="0.5.2")
    found = by_subject(list(checks.driver(tmp_path)))["libsophon"]
    assert (found.status, found.detail) == ("warning", "0.5.1 and the driver differ in version")
    old = tmp_path / "old"
    write(old, {f"opt/sophon/libsophon-0.4.9/lib/{KERNEL_MODULE}": ""})
    (old / "opt/sophon/libsophon-current").symlink_to("libsophon-0.4.9")
    assert [c.detail for c in checks.libsophon(old, None)] == ["0.4.9 is older than 0.5.1"]


def test_a_missing_kernel_module(tmp_path: Path) -> None:
    card(tmp_path)
    (tmp_path / "opt/sophon/libsophon-current/lib" / KERNEL_MODULE).unlink()
    found = by_subject(list(checks.driver(tmp_path)))["libsophon"]
    assert found.status == "problem"
    assert "libbm1684x_kernel_module.so is missing" in found.detail


def test_soc(tmp_path: Path) -> None:
    assert [check.status for check in checks.soc(tmp_path)] == ["note"]
    card(tmp_path, chips=0)
    write(tmp_path, {"dev/bm-tpu0": ""})
    assert [check.status for check in checks.soc(tmp_path)] == ["ok", "ok"]


def test_emulator(tmp_path: Path) -> None:
    environ = {"TPUSERVE_EMULATOR_DIR": str(tmp_path / "emulator")}
    assert checks.chip_emulator(environ, needed=True).status == "problem"
    assert checks.chip_emulator(environ, needed=False).status == "note"
    write(tmp_path / "emulator", dict.fromkeys(emulator.FILES, "damaged"))
    found = checks.chip_emulator(environ, needed=False)
    assert found.status == "problem"
    assert "libbmrt.so.1.0 has SHA-256" in found.detail
    assert found.advice == "run `tpuserve emulator install`"


def test_limits(tmp_path: Path) -> None:
    write(tmp_path, {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:     524288 kB\n"})
    found = by_subject(list(checks.limits(tmp_path, chips=0)))["memory"]
    assert found.status == "warning"
    assert found.detail.startswith("0.5 GiB available")
    write(tmp_path, {"proc/meminfo": "MemAvailable:    8388608 kB\n"})
    assert by_subject(list(checks.limits(tmp_path, chips=0)))["memory"].status == "ok"


def test_nothing_to_run_on_is_status_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TPUSERVE_EMULATOR_DIR", NO_EMULATOR["TPUSERVE_EMULATOR_DIR"])
    args = doctor_arguments("--runtime", "emulator", "--json")
    assert doctor.run(args) == 1
    found = {check["subject"]: check for check in json.loads(capsys.readouterr().out)}
    assert found["emulator"]["advice"] == "run `tpuserve emulator install`"
    assert found["runtime emulator"]["status"] == "problem"
    assert doctor.run(doctor_arguments("--runtime", "emulator")) == 1
    page = capsys.readouterr().out
    assert "PROBLEM  emulator" in page
    assert "what to do\n  emulator: run `tpuserve emulator install`" in page


def test_libraries_that_do_not_open_are_a_problem(tmp_path: Path) -> None:
    """Empty files under the libraries' names: the probe process says so, doctor goes on."""
    write(tmp_path, {"libbmrt.so": "", "libbmlib.so": ""})
    found = by_subject(doctor.examine(str(tmp_path), root=tmp_path, environ=NO_EMULATOR))
    assert found[f"runtime {tmp_path}"].status == "ok"
    assert found["runtime opens"].status == "problem"
    assert "exit status 1" in found["runtime opens"].detail
    assert "libbmlib" in found["runtime opens"].detail


def doctor_arguments(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    return parser.parse_args(arguments)
