"""The hand-written stub of the extension says what the extension is."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from device_svc import _core

ROOT = Path(__file__).parents[3]
STUB = ROOT / "device_svc/_core.pyi"

# What mypy's stubtest finds in every class of pybind11: its metaclass, and a general __init__ in
# classes that Python cannot construct.
ALLOWED = r"""
device_svc\._core\.[A-Za-z]+
device_svc\._core\.(ChipStatus|ModelSpec|NetSpec|Sampled|TensorSpec|VisionSpec)\.__init__
"""

Signature = dict[str, tuple[bool, object]]


def stub_classes() -> dict[str, ast.ClassDef]:
    module = ast.parse(STUB.read_text(encoding="utf-8"))
    return {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}


def stub_functions(node: ast.ClassDef | ast.Module) -> dict[str, ast.FunctionDef]:
    return {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}


def is_property(function: ast.FunctionDef) -> bool:
    return any(isinstance(d, ast.Name) and d.id == "property" for d in function.decorator_list)


def value_of(node: ast.expr | None) -> object:
    """A default as a value that compares: sequences as lists, `...` as itself, none as None."""
    if node is None:
        return None
    value = ast.literal_eval(node)
    return list(value) if isinstance(value, tuple) else value


def signature_of(function: ast.FunctionDef) -> Signature:
    """Per parameter: whether it is keyword-only, and its default as (value,) or None."""
    arguments = function.args
    plain = [*arguments.posonlyargs, *arguments.args]
    missing: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults))
    result: Signature = {}
    for argument, default in zip(plain, [*missing, *arguments.defaults], strict=True):
        result[argument.arg] = (False, value_of(default))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        result[argument.arg] = (True, value_of(default))
    return result


def runtime_signature(function: object) -> Signature:
    """pybind11 writes each function's signature into the first line of its documentation."""
    assert function.__doc__ is not None
    line = function.__doc__.splitlines()[0]
    definition = ast.parse(f"def {line}: ...").body[0]
    assert isinstance(definition, ast.FunctionDef)
    return signature_of(definition)


def assert_same(stub: Signature, runtime: Signature, name: str) -> None:
    assert list(stub) == list(runtime), name
    for parameter, (keyword_only, default) in stub.items():
        assert runtime[parameter][0] == keyword_only, f"{name}: {parameter}"
        if default is not ...:
            assert runtime[parameter][1] == default, f"{name}: {parameter}"


def test_the_module_has_the_names_of_the_stub() -> None:
    module = ast.parse(STUB.read_text(encoding="utf-8"))
    stubbed = {node.name for node in module.body if isinstance(node, ast.ClassDef)}
    stubbed |= set(stub_functions(module))
    assert {name for name in dir(_core) if not name.startswith("_")} == stubbed


@pytest.mark.parametrize("name", sorted(stub_classes()))
def test_a_class_has_the_members_of_its_stub(name: str) -> None:
    cls: type = getattr(_core, name)
    if issubclass(cls, Exception):
        [base] = stub_classes()[name].bases
        assert isinstance(base, ast.Name)
        assert cls.__base__ is not None
        assert cls.__base__.__name__ == base.id
        return
    functions = stub_functions(stub_classes()[name])
    public = {member for member in vars(cls) if not member.startswith("_")}
    assert public == {member for member in functions if not member.startswith("_")}
    for member, function in functions.items():
        runtime = vars(cls)[member]
        if is_property(function):
            assert isinstance(runtime, property), f"{name}.{member}"
        else:
            assert_same(signature_of(function), runtime_signature(runtime), f"{name}.{member}")


def test_a_function_has_the_parameters_of_its_stub() -> None:
    module = ast.parse(STUB.read_text(encoding="utf-8"))
    for name, function in stub_functions(module).items():
        assert_same(signature_of(function), runtime_signature(getattr(_core, name)), name)


@pytest.mark.timeout(120)  # mypy reads all of numpy when its cache is cold
def test_stubtest_finds_no_other_difference(tmp_path: Path) -> None:
    allowlist = tmp_path / "allowed"
    allowlist.write_text(ALLOWED, encoding="utf-8")
    command = [sys.executable, "-m", "mypy.stubtest", "device_svc._core"]
    result = subprocess.run(
        [*command, "--allowlist", str(allowlist)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
