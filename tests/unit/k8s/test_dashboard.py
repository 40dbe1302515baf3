"""The dashboard as a document; tests/integration/test_dashboard.py asks for its metrics."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from tests.support import dashboard

DOCUMENT = dashboard.load()
QUERIES = list(dashboard.queries(DOCUMENT))


@pytest.mark.parametrize("query", QUERIES, ids=lambda q: f"{q.panel}: {q.expression[:30]}")
def test_query_is_promql(query: dashboard.Query) -> None:
    assert dashboard.selectors(query.expression)


def test_the_parser_refuses_what_is_not_promql() -> None:
    with pytest.raises(ValueError, match="parenthesis"):
        dashboard.selectors("sum(rate(tpuserve_generation_tokens_total[5m])")


def test_counters_are_rated_and_gauges_are_not() -> None:
    for query in QUERIES:
        for selector in dashboard.selectors(query.expression):
            assert selector.name is not None, query
            is_counter = selector.name.endswith(("_total", "_bucket"))
            assert is_counter == (f"rate({selector.name}" in query.expression), query


def test_identity_and_variables() -> None:
    assert DOCUMENT["uid"] == "tpuserve"
    assert DOCUMENT["title"] == "tpuserve"
    assert [v["name"] for v in DOCUMENT["templating"]["list"]] == ["datasource", "model"]


def test_everything_asks_the_chosen_data_source() -> None:
    for panel in dashboard.panels(DOCUMENT):
        for each in (panel, *panel["targets"]):
            assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_panels_have_their_own_id_title_and_place() -> None:
    everything = DOCUMENT["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    assert len({panel["title"] for panel in everything}) == len(everything)
    for panel in dashboard.panels(DOCUMENT):
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
    for one, other in combinations(everything, 2):
        assert not _overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
    apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    return not (apart_x or apart_y)
