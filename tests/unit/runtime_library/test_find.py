"""Which runtime is taken on which machine; the machine is a tree in a temporary directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tpuserve import emulator, runtime_library
from tpuserve.runtime_library import RuntimeLibraryError

LIBSOPHON = "opt/sophon/libsophon-current/lib"


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def with_libsophon(root: Path) -> None:
    touch(root, f"{LIBSOPHON}/libbmrt.so", f"{LIBSOPHON}/libbmlib.so")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An emulator is installed."""
    directory = tmp_path / "emulator"
    touch(directory, *emulator.FILES)
    return {"TPUSERVE_EMULATOR_DIR": str(directory)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


def test_auto_takes_the_emulator_without_chips(root: Path, environ: dict[str, str]) -> None:
    with_libsophon(root)
    found = runtime_library.find(root=root, environ=environ)
    assert (found.kind, found.emulator) == ("emulator", True)
    assert found.directory == Path(environ["TPUSERVE_EMULATOR_DIR"])


def test_auto_takes_the_driver_with_chips(root: Path, environ: dict[str, str]) -> None:
    with_libsophon(root)
    touch(root, "dev/bm-sophon0", "dev/bm-sophon11", "dev/bm-sophon2", "dev/bmdev-ctl")
    found = runtime_library.find(root=root, environ=environ)
    assert (found.kind, found.emulator) == ("pcie", False)
    assert found.directory == root / LIBSOPHON
    assert runtime_library.pcie_nodes(root) == (0, 2, 11)


def test_auto_takes_the_soc(root: Path, environ: dict[str, str]) -> None:
    with_libsophon(root)
    touch(root, "dev/bm-tpu0")
    assert runtime_library.find(root=root, environ=environ).kind == "soc"
    assert runtime_library.find("soc", root=root, environ=environ).kind == "soc"


def test_chips_without_library_are_not_emulated_silently(
    root: Path, environ: dict[str, str]
) -> None:
    touch(root, "dev/bm-sophon0", f"{LIBSOPHON}/libbmlib.so")
    with pytest.raises(RuntimeLibraryError, match=r"lacks libbmrt\.so; install libsophon"):
        runtime_library.find(root=root, environ=environ)
    assert runtime_library.find("emulator", root=root, environ=environ).emulator


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pcie", "no chip: there is no .*bm-sophon"),
        ("soc", "not a SoC"),
        ("auto", "emulator is not in .*libcmodel.so missing.*tpuserve emulator install"),
        ("emulator", "tpuserve emulator install"),
        ("gpu", "unknown runtime 'gpu'; choose auto, pcie, soc, emulator, simchip:PROFILE"),
        ("simchip:./nowhere.toml", "no profile nowhere.toml of a simulated chip"),
        ("./nowhere", "neither a directory nor a file"),
    ],
)
def test_errors_say_what_to_do(root: Path, kind: str, message: str) -> None:
    nowhere = {"TPUSERVE_EMULATOR_DIR": str(root / "nowhere")}
    with pytest.raises(RuntimeLibraryError, match=message):
        runtime_library.find(kind, root=root, environ=nowhere)


def test_a_path_names_a_directory_or_a_file_in_it(root: Path) -> None:
    touch(root, "lib/libbmrt.so.1.0", "lib/libbmlib.so.0")
    for path in ("lib", "lib/libbmrt.so.1.0"):
        found = runtime_library.find(str(root / path), root=root, environ={})
        assert (found.kind, found.directory, found.emulator) == ("custom", root / "lib", False)
    touch(root, "lib/libcmodel.so")
    assert runtime_library.find(str(root / "lib"), root=root, environ={}).emulator
    (root / "lib/libbmlib.so.0").unlink()
    with pytest.raises(RuntimeLibraryError, match="lacks libbmlib"):
        runtime_library.find(str(root / "lib"), root=root, environ={})


def test_a_simulated_chip_is_told_its_profile(tmp_path: Path) -> None:
    profile = tmp_path / "chip.toml"
    profile.touch()
    found = runtime_library.find(f"simchip:{profile}", root=tmp_path, environ={})
    assert (found.kind, found.emulator) == ("simchip", False)
    assert (found.directory / "libsimchip.so").is_file()
    assert found.environment == {"TPUSERVE_SIMCHIP_PROFILE": str(profile)}


def test_where_the_emulator_belongs(tmp_path: Path) -> None:
    version = emulator.VERSION
    assert emulator.directory({"TPUSERVE_EMULATOR_DIR": "/e"}) == Path("/e")
    assert emulator.directory({"XDG_CACHE_HOME": "/c"}) == Path(f"/c/tpuserve/emulator/{version}")
    assert emulator.directory({"HOME": "/h"}) == Path(f"/h/.cache/tpuserve/emulator/{version}")
