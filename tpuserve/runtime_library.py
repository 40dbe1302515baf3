"""Finds the vendor runtime: that of a PCIe card's driver, of a SoC, or of the chip emulator."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tpuserve import emulator

KINDS: Final = ("auto", "pcie", "soc", "emulator")
# The names that are tried, in the order in which they are loaded.
_LIBRARIES: Final = (("libbmrt.so.1.0", "libbmrt.so"), ("libbmlib.so.0", "libbmlib.so"))
_LIBSOPHON: Final = "opt/sophon/libsophon-current/lib"


class RuntimeLibraryError(ValueError):
    """No usable runtime; the text says what was looked for and what to do."""


@dataclass(frozen=True, slots=True)
class RuntimeLibrary:
    """`kind` is "pcie", "soc", "emulator" or "custom"; `directory` holds libbmrt and libbmlib."""

    kind: str
    directory: Path
    emulator: bool


def find(
    kind: str = "auto",
    *,
    root: Path = Path("/"),
    environ: Mapping[str, str] = os.environ,
) -> RuntimeLibrary:
    """The runtime of this kind. `root` stands for the file system's root.

    kind: "auto" (the driver's runtime when chips are present, else the emulator), "pcie", "soc",
    "emulator", or the path of a directory or of a libbmrt file. Raises RuntimeLibraryError.
    """
    if kind == "auto":
        return _find_auto(root, environ)
    if kind == "pcie":
        if not pcie_nodes(root):
            raise RuntimeLibraryError(
                f"no chip: there is no {root / 'dev/bm-sophon*'}; is the driver loaded "
                "(lsmod shows bmsophon) and, in a container, are the nodes passed through?"
            )
        return _libsophon("pcie", root)
    if kind == "soc":
        if not soc_nodes(root):
            raise RuntimeLibraryError(f"not a SoC: there is no {root / 'dev/bm-tpu0'}")
        return _libsophon("soc", root)
    if kind == "emulator":
        return _find_emulator(environ)
    if os.sep in kind:
        return _custom(Path(kind))
    raise RuntimeLibraryError(
        f"unknown runtime {kind!r}; choose {', '.join(KINDS)} or a path such as ./lib"
    )


def pcie_nodes(root: Path = Path("/")) -> tuple[int, ...]:
    """Chip ids that have a device node, as the host numbers them."""
    names = (path.name.removeprefix("bm-sophon") for path in root.glob("dev/bm-sophon*"))
    return tuple(sorted(int(name) for name in names if name.isdigit()))


def soc_nodes(root: Path = Path("/")) -> tuple[int, ...]:
    return (0,) if (root / "dev/bm-tpu0").exists() else ()


def _find_auto(root: Path, environ: Mapping[str, str]) -> RuntimeLibrary:
    if pcie_nodes(root):
        return _libsophon("pcie", root)
    if soc_nodes(root):
        return _libsophon("soc", root)
    return _find_emulator(environ)


def _libsophon(kind: str, root: Path) -> RuntimeLibrary:
    directory = root / _LIBSOPHON
    missing = _missing(directory)
    if missing:
        raise RuntimeLibraryError(
            f"a chip is present but {directory} lacks {missing}; install libsophon, "
            "or choose --runtime emulator"
        )
    return RuntimeLibrary(kind, directory, emulator=False)


def _find_emulator(environ: Mapping[str, str]) -> RuntimeLibrary:
    directory = emulator.directory(environ)
    missing = [name for name in emulator.FILES if not (directory / name).is_file()]
    if missing:
        raise RuntimeLibraryError(
            f"the chip emulator is not in {directory} ({', '.join(missing)} missing); "
            "run `tpuserve emulator install`"
        )
    return RuntimeLibrary("emulator", directory, emulator=True)


def _custom(path: Path) -> RuntimeLibrary:
    directory = (path.parent if path.is_file() else path).absolute()
    if not directory.is_dir():
        raise RuntimeLibraryError(f"{path} is neither a directory nor a file")
    missing = _missing(directory)
    if missing:
        raise RuntimeLibraryError(f"{directory} lacks {missing}")
    return RuntimeLibrary("custom", directory, emulator=(directory / "libcmodel.so").is_file())


def _missing(directory: Path) -> str:
    """The libraries of which no known file name is there; empty when all are."""
    return " and ".join(
        names[-1] for names in _LIBRARIES if not any((directory / name).is_file() for name in names)
    )
