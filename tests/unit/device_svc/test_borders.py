"""Borders between prefill launches, and what the prefix cache makes of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from device_svc.engine_api import ModelShape, PrefillBorders
from device_svc.prefix_cache import Placement, PrefixCache, PrefixMode
from device_svc.request import Finish
from device_svc.scheduler import Policy
from tests.support.fake_core import FakeEngine
from tests.support.stepping import Driver

CHUNKS = PrefillBorders(16, 16)
SHARE = PrefillBorders(64, 32)
SHAPE = ModelShape(
    context_length=192,
    max_prompt_length=96,
    prefill_chunk_tokens=64,
    vocab_size=1024,
    argmax=False,
    features=("history",),
    history_chunk_tokens=32,
)


@pytest.mark.parametrize(
    ("borders", "position", "below", "end"),
    [
        *((CHUNKS, 16 * n + k, 16 * n, 16 * n + 16) for n in range(3) for k in (0, 1, 15)),
        (SHARE, 0, 0, 64),
        (SHARE, 1, 0, 33),
        (SHARE, 40, 0, 64),
        (SHARE, 64, 64, 96),
        (SHARE, 95, 64, 96),
        (SHARE, 96, 96, 128),
    ],
)
def test_borders(borders: PrefillBorders, position: int, below: int, end: int) -> None:
    assert borders.at_or_below(position) == below
    assert borders.end(position) == end


@pytest.mark.parametrize(
    ("mode", "common", "reused"),
    [
        (PrefixMode.EXACT, 96, 64),
        (PrefixMode.EXACT, 64, 64),
        (PrefixMode.EXACT, 63, 0),
        (PrefixMode.FAST, 63, 63),
        # Prefill goes on behind at most 64 rows.
        (PrefixMode.FAST, 80, 64),
        (PrefixMode.OFF, 96, 0),
    ],
)
def test_reuse_of_a_shared_prefix(mode: PrefixMode, common: int, reused: int) -> None:
    cache = PrefixCache(2, SHAPE, mode)
    first = np.arange(96, dtype=np.int32)
    placement = cache.place(first, None, (0, 1))
    cache.hold(placement, first, None)
    cache.filled(placement.slot, 96)
    cache.release(placement.slot, first, 96)
    second = np.concatenate((first[:common], np.full(1 + 95 - common, 500, np.int32)))[:96]
    second[-1] = 501
    assert cache.place(second, None, (0, 1)).tokens == reused


def test_rows_of_images_stay_in_their_slot() -> None:
    cache = PrefixCache(2, SHAPE, PrefixMode.EXACT)
    ids = np.arange(96, dtype=np.int32)
    for slot, images in enumerate(((), ("digest",))):
        cache.hold(Placement(slot, slot, 0), ids, None, images)
        cache.filled(slot, 96)
        cache.release(slot, ids, 96)
    assert [kept.slot for kept in cache.kept] == [0]


@pytest.mark.parametrize("mode", PrefixMode)
def test_launches_stay_within_what_the_nets_take(mode: PrefixMode) -> None:
    """Prompts of every length and common part; the engine refuses what does not fit."""
    driver = Driver(
        FakeEngine(slots=2, context_length=40, chunk_tokens=16, later_tokens=6),
        policy=Policy(mode),
    )
    asked = {}
    for key, (common, rest) in enumerate(itertools.product((0, 5, 15, 16, 17, 20), (1, 2, 5, 16))):
        if common + rest <= 16 + 6:
            asked[key] = [*range(1, common + 1), *range(100 * key, 100 * key + rest)]
            driver.submit(key, asked[key])
            driver.run()
    for key, prompt_ids in asked.items():
        assert driver.finish(key) is Finish.LENGTH
        # The arithmetic engine draws sums, which tell whether a row is missing or doubled.
        cold = Driver(FakeEngine(slots=1, context_length=40, chunk_tokens=16, later_tokens=6))
        cold.submit(key, prompt_ids)
        cold.run()
        assert driver.ids(key) == cold.ids(key)
    cached = [accepted.cached_tokens for accepted in driver.accepted]
    assert max(cached) == {PrefixMode.EXACT: 16, PrefixMode.FAST: 16, PrefixMode.OFF: 0}[mode]
