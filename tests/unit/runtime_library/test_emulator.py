"""Installing the emulator, from a small wheel that stands in for the 312 MB one."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from tpuserve import emulator
from tpuserve.emulator import EmulatorError, Member, Pins

CONTENT = {"tpu_mlir/lib/libbmrt.so.1.0": b"runtime", "tpu_mlir/lib/libcmodel_x.so": b"model"}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "small.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in CONTENT.items():
            archive.writestr(name, data)
        archive.writestr("tpu_mlir/large", bytes(1000))
    return path


@pytest.fixture
def pins(wheel: Path) -> Pins:
    runtime, model = CONTENT
    return Pins(
        sha256(wheel.read_bytes()),
        (
            Member(runtime, "libbmrt.so.1.0", sha256(CONTENT[runtime])),
            Member(model, "libcmodel.so", sha256(CONTENT[model])),
        ),
    )


def silent(_: str) -> None:
    pass


def test_keeps_the_pinned_members_only(tmp_path: Path, wheel: Path, pins: Pins) -> None:
    target = tmp_path / "cache" / "emulator"
    assert emulator.install(target, wheel=wheel, report=silent, pins=pins)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        "libbmrt.so.1.0": b"runtime",
        "libcmodel.so": b"model",
    }
    assert sorted(path.name for path in target.parent.iterdir()) == [".lock", "emulator"]
    assert wheel.exists()
    assert emulator.problems(target, pins=pins) == []


def test_does_nothing_when_it_is_there(tmp_path: Path, wheel: Path, pins: Pins) -> None:
    def fetch(_: Path) -> Path:
        raise AssertionError("no download is needed")

    target = tmp_path / "emulator"
    assert emulator.install(target, wheel=wheel, report=silent, pins=pins)
    assert not emulator.install(target, report=silent, fetch=fetch, pins=pins)


def test_replaces_damaged_files(tmp_path: Path, wheel: Path, pins: Pins) -> None:
    target = tmp_path / "emulator"
    target.mkdir()
    (target / "libbmrt.so.1.0").write_bytes(b"half")
    found = emulator.problems(target, pins=pins)
    assert len(found) == 2
    assert "libbmrt.so.1.0 has SHA-256" in found[0]
    assert found[1] == "libcmodel.so is missing"
    assert emulator.install(target, wheel=wheel, report=silent, pins=pins)
    assert emulator.problems(target, pins=pins) == []


def test_refuses_another_wheel(tmp_path: Path, wheel: Path, pins: Pins) -> None:
    target = tmp_path / "emulator"
    other = tmp_path / "other.whl"
    other.write_bytes(wheel.read_bytes() + b"\0")
    with pytest.raises(EmulatorError, match=r"other\.whl is not the wheel of tpu_mlir==1\.30\.2"):
        emulator.install(target, wheel=other, report=silent, pins=pins)
    with pytest.raises(EmulatorError, match="does not exist"):
        emulator.install(target, wheel=tmp_path / "nowhere.whl", report=silent, pins=pins)
    assert not target.exists()


def test_refuses_other_members(tmp_path: Path, wheel: Path, pins: Pins) -> None:
    changed = Pins(
        pins.wheel_sha256, (Member(next(iter(CONTENT)), "libbmrt.so.1.0", sha256(b"x")),)
    )
    with pytest.raises(EmulatorError, match="holds other files than expected: libbmrt"):
        emulator.install(tmp_path / "emulator", wheel=wheel, report=silent, pins=changed)
    assert not (tmp_path / "emulator").exists()


def test_two_at_once_fetch_once(tmp_path: Path, wheel: Path, pins: Pins) -> None:
    """The second finds the first at work, waits, and takes its result."""
    target = tmp_path / "emulator"
    fetched: list[Path] = []
    first_works, second_waits = threading.Event(), threading.Event()
    results: list[bool] = []

    def fetch(scratch: Path) -> Path:
        fetched.append(scratch)
        first_works.set()
        assert second_waits.wait(10)
        return wheel

    def note_waiting(text: str) -> None:
        if "waiting" in text:
            second_waits.set()

    def first() -> None:
        results.append(emulator.install(target, report=silent, fetch=fetch, pins=pins))

    thread = threading.Thread(target=first)
    thread.start()
    assert first_works.wait(10)
    assert not emulator.install(target, report=note_waiting, fetch=fetch, pins=pins)
    thread.join(10)
    assert results == [True]
    assert len(fetched) == 1
    assert emulator.problems(target, pins=pins) == []


def test_says_what_to_do_without_network(tmp_path: Path) -> None:
    """pip really runs, against a port on which nobody listens."""
    script = "from tpuserve.cli.__main__ import main; raise SystemExit(main())"
    environ = {
        **os.environ,
        "TPUSERVE_EMULATOR_DIR": str(tmp_path / "emulator"),
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "0",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INPUT": "1",
        "PYTHONPATH": str(Path(emulator.__file__).parents[1]),
    }
    environ.pop("PIP_EXTRA_INDEX_URL", None)
    result = subprocess.run(
        [sys.executable, "-c", script, "emulator", "install"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert result.returncode == 1
    assert "pip could not download tpu_mlir==1.30.2" in result.stderr
    assert "tpuserve emulator install --wheel FILE" in result.stderr
    assert list(tmp_path.glob("emulator*")) == []
