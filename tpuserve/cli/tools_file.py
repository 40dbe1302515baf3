"""Tools from a file, for `tpuserve chat --tools FILE`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tpuserve.cli.errors import CommandError
from tpuserve.client import Tool


def read(path: Path) -> tuple[Tool, ...]:
    """A JSON list of functions, plain or in OpenAI's form. Raises CommandError naming the file."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CommandError(f"{path}: {error}") from error
    if not isinstance(document, list):
        raise CommandError(f"{path} holds no JSON list of tools")
    return tuple(_tool(item, f"{path}: tool {number}") for number, item in enumerate(document))


def _tool(item: Any, where: str) -> Tool:
    function = item.get("function", item) if isinstance(item, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise CommandError(f"{where} is no object with a name")
    return Tool(function["name"], str(function.get("description", "")), function.get("parameters"))
