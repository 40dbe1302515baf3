"""What a Grafana dashboard asks of Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import promql_parser

ROOT: Final = Path(__file__).resolve().parents[2]
DASHBOARD: Final = ROOT / "k8s" / "monitoring" / "tpuserve.json"
# Grafana replaces these before it asks.
_VARIABLES: Final = {"$__rate_interval": "5m", "$__interval": "1m", "$__range": "1h"}


@dataclass(frozen=True, slots=True)
class Query:
    panel: str
    expression: str


def load(path: Path = DASHBOARD) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def panels(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that show something: all but row headers."""
    return [panel for panel in document["panels"] if panel["type"] != "row"]


def queries(document: dict[str, Any]) -> Iterator[Query]:
    for panel in panels(document):
        for target in panel["targets"]:
            yield Query(panel["title"], _substituted(target["expr"]))
    for variable in document["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert found is not None, variable
            yield Query(f"variable {variable['name']}", found[1])


def _substituted(expression: str) -> str:
    for name, value in _VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    """Every vector selector; raises ValueError when the expression is not PromQL."""
    found: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found
