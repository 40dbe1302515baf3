"""Calls written as Python: `[f(a=1), g()]` and `tool_call(a=1)`. Parsed, never run."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Collection
from typing import Any, Final

# JSON's words, which models write into Python as well.
_WORDS: Final = {"true": True, "false": False, "null": None}


def call_list(source: str, functions: Collection[str]) -> list[tuple[str, str]] | None:
    """Names and JSON arguments of a list of calls; None when it is anything else."""
    tree = _parsed(source.strip())
    if len(tree) != 1 or not isinstance(tree[0], ast.Expr) or not _is_list(tree[0].value):
        return None
    calls: list[tuple[str, str]] = []
    for item in tree[0].value.elts:  # type: ignore[attr-defined]
        if not isinstance(item, ast.Call) or not isinstance(item.func, ast.Name):
            return None
        arguments = _arguments(item)
        if arguments is None or item.func.id not in functions:
            return None
        calls.append((item.func.id, arguments))
    return calls


def keyword_arguments(source: str, function: str) -> str | None:
    """The JSON arguments of the one call of `function`; None when there is anything else."""
    tree = _parsed(source.strip())
    if len(tree) != 1 or not isinstance(tree[0], ast.Expr):
        return None
    call = tree[0].value
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        return None
    return _arguments(call) if call.func.id == function else None


def _parsed(source: str) -> list[ast.stmt]:
    """The statements; [] when it is no Python."""
    try:
        with warnings.catch_warnings():
            # Such as an escape that Python does not know in a model's string.
            warnings.simplefilter("ignore")
            return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _is_list(node: ast.expr) -> bool:
    return isinstance(node, ast.List) and bool(node.elts)


def _arguments(call: ast.Call) -> str | None:
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        return None
    try:
        values = {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}
        return json.dumps(values, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        return None


def _literal(node: ast.expr) -> Any:
    """The JSON value that a literal stands for. Raises ValueError for anything else."""
    if isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, str):
            # The halves of a JSON-escaped character join; a half alone becomes U+FFFD.
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if value is None or isinstance(value, (bool, int, float)):
            return value
    elif isinstance(node, ast.Name) and node.id in _WORDS:
        return _WORDS[node.id]
    elif isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item) for item in node.elts]
    elif isinstance(node, ast.Dict):
        return {
            _key(key): _literal(value) for key, value in zip(node.keys, node.values, strict=True)
        }
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _literal(node.operand)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return -value if isinstance(node.op, ast.USub) else value
    raise ValueError("not a JSON value")


def _key(node: ast.expr | None) -> str:
    value = None if node is None else _literal(node)
    if not isinstance(value, str):
        raise ValueError("not a key of a JSON object")
    return value
