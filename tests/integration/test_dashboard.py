"""Every query of the dashboard names metrics and labels that the running services have."""

from __future__ import annotations

import urllib.request

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from bench.processes import Stack
from tests.support import dashboard
from tpuserve.client import Client, Message, Options

# Prometheus itself adds these to what it scrapes.
_SCRAPE_LABELS = {"instance", "job"}


@pytest.fixture(scope="module")
def families(stack: Stack) -> dict[str, list[Metric]]:
    """By the name of a sample, after one request: the families of all services that have it."""
    options = Options(temperature=0, max_tokens=4, ignore_eos=True)
    with Client(stack.address) as client:
        client.chat_once([Message("user", "Hello!")], options)
    found: dict[str, list[Metric]] = {}
    for url in stack.metrics_urls:
        with urllib.request.urlopen(url, timeout=10) as response:
            text = response.read().decode()
        for family in text_string_to_metric_families(text):
            # A family without samples, such as a reading that the emulator lacks, counts as well.
            suffix = {"counter": "_total", "histogram": "_bucket"}.get(family.type, "")
            for name in {family.name + suffix, *(sample.name for sample in family.samples)}:
                found.setdefault(name, []).append(family)
    return found


QUERIES = list(dashboard.queries(dashboard.load()))


@pytest.mark.parametrize("query", QUERIES, ids=lambda q: f"{q.panel}: {q.expression[:30]}")
def test_metrics_and_labels_exist(
    families: dict[str, list[Metric]], query: dashboard.Query
) -> None:
    for selector in dashboard.selectors(query.expression):
        assert selector.name in families
        samples = [
            sample
            for family in families[selector.name]
            for sample in family.samples
            if sample.name == selector.name
        ]
        labels = {label for sample in samples for label in sample.labels} | _SCRAPE_LABELS
        if samples:
            assert {matcher.name for matcher in selector.matchers.matchers} <= labels
