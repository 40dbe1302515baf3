"""Time per row to find which tokens an output format allows, and to draw one of them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from prometheus_client import CollectorRegistry

from bench import stats
from bench.report import Row, Section
from device_svc import _core
from device_svc.engine_api import ModelShape, TokenMask
from device_svc.format_metrics import FormatMetrics
from device_svc.formats import Formats
from tokenizer_svc import loading
from tokenizer_svc.vocabulary import vocabulary_of
from tpuserve.output_format import FormatKind, OutputFormat
from tpuserve.vocabulary import Vocabulary

_ROUNDS: Final = 5
_LONGEST_TOKEN_BYTES: Final = 24
_DRAWS: Final = 200
_ADDRESS: Final = {
    "type": "object",
    "properties": {"street": {"type": "string"}, "city": {"enum": ["Paris", "Rome", "Berlin"]}},
    "required": ["street", "city"],
    "additionalProperties": False,
}
_PERSON: Final = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "string"}},
        "address": _ADDRESS,
    },
    "required": ["name", "age", "tags", "address"],
    "additionalProperties": False,
}
_JSON_TEXT: Final = (
    '{"name": "Jean-Baptiste Müller", "age": 42, "tags": ["alpha", "beta gamma", "日本語"], '
    '"address": {"street": "12 rue de la Paix", "city": "Paris"}}'
)
_PROSE: Final = "The quick brown fox jumps over the lazy dog, and the dog says nothing. " * 3
# Name, format, a text in it.
_CASES: Final = (
    (
        "schema of 7 properties",
        OutputFormat(FormatKind.JSON_SCHEMA, json.dumps(_PERSON)),
        _JSON_TEXT,
    ),
    ("any JSON object", OutputFormat(FormatKind.JSON_OBJECT), _JSON_TEXT),
    (
        "regex [A-Za-z ,.]{1,400}",
        OutputFormat(FormatKind.REGEX, "[A-Za-z ,.]{1,400}"),
        _PROSE,
    ),
)

METHOD = (
    "No chip: the matchers of the device service walk through a text in the format, cut into the "
    "longest tokens of the vocabulary, five times. A mask is found while the chip computes the "
    "logits of its step, so it adds to a step only what outlasts the chip. Draws are over random "
    "logits at temperature 1 with top-p 0.95, without and with a mask."
)


def run(config: Path) -> Section:
    """config: a directory with tokenizer files. Raises TokenizerConfigError."""
    vocabulary = vocabulary_of(loading.load(config, max_characters=1_000_000))
    return asyncio.run(_measured(vocabulary))


async def _measured(vocabulary: Vocabulary) -> Section:
    size = len(vocabulary.tokens)
    formats = Formats(
        ModelShape(4096, 4095, 128, size, False, ()), FormatMetrics(CollectorRegistry())
    )
    started_s = time.perf_counter()
    await formats.put(vocabulary)
    rows = [
        Row("tokens of the vocabulary", size, ""),
        Row("taking the vocabulary, once", _us(started_s) / 1e3, "ms"),
    ]
    mask: TokenMask | None = None
    for name, output_format, text in _CASES:
        found, mask = await _walk(formats, output_format, _longest_tokens(vocabulary, text))
        rows += [Row(f"{name}: {what}", value, unit) for what, value, unit in found]
    formats.close()
    for name, given in (("free", None), ("masked", mask)):
        draws_us = _draws_us(size, given)
        rows.append(Row(f"draw, {name}, p50", stats.quantile(draws_us, 0.5), "µs"))
    return Section("masks", "Output formats: time per row", METHOD, tuple(rows))


async def _walk(
    formats: Formats, output_format: OutputFormat, ids: Sequence[int]
) -> tuple[list[tuple[str, float, str]], TokenMask | None]:
    started_s = time.perf_counter()
    mask: TokenMask | None = None
    masks_us: list[float] = []
    accepts_us: list[float] = []
    await formats.matcher(output_format, stop_ids=frozenset(), resume_ids=())
    compile_us = _us(started_s)
    for _ in range(_ROUNDS):
        matcher = await formats.matcher(output_format, stop_ids=frozenset(), resume_ids=())
        for token in ids:
            started_s = time.perf_counter()
            found = matcher.next_tokens()
            masks_us.append(_us(started_s))
            assert isinstance(found, np.ndarray), found
            mask = found
            started_s = time.perf_counter()
            matcher.accept(token)
            accepts_us.append(_us(started_s))
    summary = stats.summary(masks_us)
    return [
        ("compile", compile_us / 1e3, "ms"),
        ("mask, mean", sum(masks_us) / len(masks_us), "µs"),
        ("mask, p50", summary.p50, "µs"),
        ("mask, p99", summary.p99, "µs"),
        ("accept, p50", stats.quantile(accepts_us, 0.5), "µs"),
    ], mask


def _longest_tokens(vocabulary: Vocabulary, text: str) -> list[int]:
    special = set(vocabulary.special_ids)
    ids = {token: i for i, token in enumerate(vocabulary.tokens) if i not in special}
    data, result = text.encode(), list[int]()
    while data:
        length = next(n for n in range(_LONGEST_TOKEN_BYTES, 0, -1) if data[:n] in ids)
        result.append(ids[data[:length]])
        data = data[length:]
    return result


def _draws_us(size: int, mask: TokenMask | None) -> list[float]:
    logits = np.random.default_rng(0).normal(size=(1, size)).astype(np.float32) * 4
    params = _core.SamplingParams(temperature=1.0, top_p=0.95, seed=1)
    sampler = _core.Sampler(params, size, np.zeros(0, np.int32))
    result: list[float] = []
    for _ in range(_DRAWS):
        started_s = time.perf_counter()
        _core.sample(logits, [sampler], [mask])
        result.append(_us(started_s))
    return result


def _us(started_s: float) -> float:
    return (time.perf_counter() - started_s) * 1e6
