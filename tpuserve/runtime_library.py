"""Finds the vendor runtime: of a PCIe card's driver, a SoC or the emulator, or a simulated one."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tpuserve import emulator

KINDS: Final = ("auto", "pcie", "soc", "emulator")
# The names that are tried, in the order in which they are loaded.
_LIBRARIES: Final = (("libbmrt.so.1.0", "libbmrt.so"), ("libbmlib.so.0", "libbmlib.so"))
_LIBSOPHON: Final = "opt/sophon/libsophon-current/lib"
_SIMCHIP: Final = "simchip:"
_SIMCHIP_LIBRARY: Final = "libsimchip.so"
_SIMCHIP_PROFILE: Final = "TPUSERVE_SIMCHIP_PROFILE"


class RuntimeLibraryError(ValueError):
    """No usable runtime; the text says what was looked for and what to do."""


@dataclass(frozen=True, slots=True)
class RuntimeLibrary:
    """`kind` is "pcie", "soc", "emulator", "simchip" or "custom".

    directory: holds libbmrt and libbmlib, or the simulated chip that is both.
    environment: variables that the library reads when it is loaded; for the caller to set.
    """

    kind: str
    directory: Path
    emulator: bool
    environment: Mapping[str, str] = field(default_factory=dict)


def find(
    kind: str = "auto",
    *,
    root: Path = Path("/"),
    environ: Mapping[str, str] = os.environ,
) -> RuntimeLibrary:
    """The runtime of this kind. `root` stands for the file system's root.

    kind: "auto" (the driver's runtime when chips are present, else the emulator), "pcie", "soc",
    "emulator", "simchip:PROFILE" with the path of a profile, or the path of a directory or of a
    libbmrt file. Raises RuntimeLibraryError.
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
    if kind.startswith(_SIMCHIP):
        return _simchip(Path(kind.removeprefix(_SIMCHIP)))
    if os.sep in kind:
        return _custom(Path(kind))
    raise RuntimeLibraryError(
        f"unknown runtime {kind!r}; choose {', '.join(KINDS)}, simchip:PROFILE "
        "or a path such as ./lib"
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


def _simchip(profile: Path) -> RuntimeLibrary:
    if not profile.is_file():
        raise RuntimeLibraryError(f"there is no profile {profile} of a simulated chip")
    # Installed beside the extension that loads it.
    package = importlib.util.find_spec("device_svc")
    places = () if package is None else tuple(package.submodule_search_locations or ())
    for place in map(Path, places):
        if (place / _SIMCHIP_LIBRARY).is_file():
            environment = {_SIMCHIP_PROFILE: str(profile.absolute())}
            return RuntimeLibrary("simchip", place, emulator=False, environment=environment)
    raise RuntimeLibraryError(f"{_SIMCHIP_LIBRARY} is not installed beside device_svc")


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
