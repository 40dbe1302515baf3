"""The import rules of CONTRIBUTING.md, read from the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("tokenizer_svc", "device_svc", "gateway")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(package: str) -> list[Path]:
    found = [p for p in (ROOT / package).rglob("*.py") if p.parent.name != "v1"]
    assert found, package
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_services_do_not_import_each_other(service: str) -> None:
    forbidden = {*SERVICES, "compiler"} - {service}
    for path in sources(service):
        for name in imports(path):
            assert name.split(".")[0] not in forbidden, f"{path} imports {name}"


def test_the_shared_package_imports_no_service() -> None:
    for path in sources("tpuserve"):
        for name in imports(path):
            assert name.split(".")[0] not in {*SERVICES, "compiler"}, f"{path} imports {name}"


def test_only_the_engine_imports_the_extension() -> None:
    for package in (*SERVICES, "tpuserve"):
        for path in sources(package):
            if path != ROOT / "device_svc" / "engine.py":
                assert "device_svc._core" not in set(imports(path)), path


def test_only_the_two_sides_of_the_vendor_abi_include_it() -> None:
    """The runtime layer calls it; the simulated chip implements it."""
    headers = [p for p in (ROOT / "csrc").rglob("*") if p.suffix in {".h", ".cc"}]
    assert headers
    for path in headers:
        inside = {"runtime", "simchip"} & set(path.relative_to(ROOT / "csrc").parts)
        assert inside or "vendor_abi" not in path.read_text(encoding="utf-8"), path


def test_python_headers_stay_in_the_bindings() -> None:
    for path in (ROOT / "csrc").rglob("*"):
        if path.suffix in {".h", ".cc"} and "bindings" not in path.parts:
            text = path.read_text(encoding="utf-8")
            assert "pybind11" not in text, path
            assert "Python.h" not in text, path
