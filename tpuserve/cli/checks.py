"""What `tpuserve doctor` looks at: each check reads one thing and says what to do about it.

`root` stands for the file system's root. Paths and texts below /proc/bmsophon are those of the
bmsophon driver.
"""

from __future__ import annotations

import os
import platform
import re
import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tpuserve import emulator, runtime_library

Status = Literal["ok", "note", "warning", "problem"]

# Older drivers and libraries load today's LLM bmodels wrongly or not at all.
_OLDEST_LIBSOPHON: Final = (0, 5, 1)
_LIBSOPHON: Final = "opt/sophon/libsophon-current"
_KERNEL_MODULE: Final = "lib/tpu_module/libbm1684x_kernel_module.so"
_EMULATOR_GLIBC: Final = (2, 34)
_MANY_CHIPS_FILES: Final = 65536
_ENOUGH_FILES: Final = 1024
_ENOUGH_MEMORY_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Check:
    """A finding: `advice` is empty where nothing is to be done."""

    subject: str
    status: Status
    detail: str
    advice: str = ""


def driver(root: Path) -> Iterator[Check]:
    """The PCIe driver, its nodes, chips and user-space library."""
    proc, nodes = root / "proc/bmsophon", runtime_library.pcie_nodes(root)
    if not proc.is_dir() and not nodes:
        yield Check("PCIe driver", "note", "not loaded: no /proc/bmsophon, no /dev/bm-sophon*")
        return
    version = _read(proc / "driver_version")
    if version is None:
        yield Check(
            *("PCIe driver", "warning", "nodes are there, but no /proc/bmsophon/driver_version"),
            "in a container, mount /proc of the host's driver; on a host, reload the driver",
        )
    else:
        yield Check("PCIe driver", "ok", " ".join(version.split()))
    if nodes:
        yield from _node_access(root, nodes)
    else:
        yield Check(
            *("chip nodes", "problem", "the driver is loaded but there is no /dev/bm-sophon*"),
            "pass the nodes into the container (--device /dev/bm-sophon0), or check `dmesg`",
        )
    for chip in sorted(proc.glob("card*/bmsophon*"), key=_number):
        yield _chip(chip)
    yield from libsophon(root, version)


def libsophon(root: Path, driver_version: str | None) -> Iterator[Check]:
    directory = root / _LIBSOPHON
    if not (directory / "lib").is_dir():
        yield Check(
            *("libsophon", "problem", f"chips need it, but {directory}/lib does not exist"),
            "install libsophon of the driver's version; in a container, mount /opt/sophon",
        )
        return
    version = _version(directory.resolve().name)
    text = ".".join(map(str, version)) or "unknown version"
    if not (directory / _KERNEL_MODULE).is_file():
        yield Check(
            *("libsophon", "problem", f"{directory / _KERNEL_MODULE} is missing"),
            "the runtime opens it under this very path; install or mount all of libsophon",
        )
    elif version and version < _OLDEST_LIBSOPHON:
        yield Check(
            *("libsophon", "warning", f"{text} is older than 0.5.1"),
            "install libsophon 0.5.1 or newer together with its driver",
        )
    elif version and driver_version and _version(driver_version) != version:
        yield Check(
            *("libsophon", "warning", f"{text} and the driver differ in version"),
            "install driver and library of one release",
        )
    else:
        yield Check("libsophon", "ok", f"{text} in {directory}")


def soc(root: Path) -> Iterator[Check]:
    if runtime_library.soc_nodes(root):
        yield Check("SoC", "ok", f"{root / 'dev/bm-tpu0'}")
        yield from libsophon(root, None)
    else:
        yield Check("SoC", "note", "no /dev/bm-tpu0: not a SoC")


def chip_emulator(environ: Mapping[str, str], *, needed: bool) -> Check:
    """`needed`: without chips there is nothing else to run on."""
    target = emulator.directory(environ)
    wrong = emulator.problems(target)
    if not wrong:
        return Check("emulator", "ok", f"{emulator.VERSION}, verified, in {target}")
    status: Status = "problem" if needed else "note"
    if not target.exists():
        return Check(
            "emulator", status, f"not installed in {target}", "run `tpuserve emulator install`"
        )
    return Check(
        *("emulator", "problem", f"{target}: {'; '.join(wrong)}"), "run `tpuserve emulator install`"
    )


def platform_of_emulator() -> Check:
    machine, (_, glibc) = platform.machine(), platform.libc_ver()
    detail = f"Python {platform.python_version()}, {machine}, glibc {glibc or 'unknown'}"
    if machine != "x86_64" or (_version(glibc) and _version(glibc) < _EMULATOR_GLIBC):
        return Check(
            *("platform", "warning", detail), "the emulator needs x86_64 and glibc 2.34 or newer"
        )
    return Check("platform", "ok", detail)


def limits(root: Path, *, chips: int) -> Iterator[Check]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY_CHIPS_FILES if chips > 1 else _ENOUGH_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        yield Check("open files", "warning", f"at most {soft}", f"raise it: ulimit -n {wanted}")
    else:
        yield Check("open files", "ok", f"at most {soft}")
    match = re.search(r"MemAvailable:\s+(\d+) kB", _read(root / "proc/meminfo") or "")
    if match is None:
        yield Check("memory", "note", "unknown: /proc/meminfo says nothing")
        return
    available_bytes = int(match.group(1)) * 1024
    detail = f"{available_bytes / (1 << 30):.1f} GiB available, {os.cpu_count()} CPUs"
    if available_bytes < _ENOUGH_MEMORY_BYTES:
        yield Check("memory", "warning", detail, "free some: the services need about 1 GiB")
    else:
        yield Check("memory", "ok", detail)


def _node_access(root: Path, nodes: tuple[int, ...]) -> Iterator[Check]:
    closed = [n for n in nodes if not os.access(root / f"dev/bm-sophon{n}", os.R_OK | os.W_OK)]
    names = ", ".join(str(number) for number in nodes)
    if closed:
        refused = ", ".join(f"/dev/bm-sophon{number}" for number in closed)
        yield Check(
            *("chip nodes", "problem", f"no permission for {refused}"),
            "let this user read and write them: group, udev rule, or the container's device rules",
        )
    else:
        yield Check("chip nodes", "ok", f"/dev/bm-sophon for chips {names}")


def _chip(path: Path) -> Check:
    subject = f"chip {_number(path)}"
    status = (_read(path / "status") or "unknown").strip()
    readings = [status]
    for name in ("chip_temp", "tpu_power", "tpu_freq"):
        if (value := _read(path / name)) and value.strip() != "N/A":
            readings.append(value.strip())
    if status == "Active":
        return Check(subject, "ok", ", ".join(readings))
    return Check(
        *(subject, "problem", ", ".join(readings)),
        "recover it: `bm-smi --start_dev=N --last_dev=N --recovery`, or reboot the host",
    )


def _number(path: Path) -> int:
    digits = re.search(r"\d+$", path.name)
    return int(digits.group()) if digits else -1


def _version(text: str) -> tuple[int, ...]:
    match = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(map(int, match.group().split("."))) if match else ()


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
