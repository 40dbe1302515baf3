"""Requests whose logits are NaN: they end alone, and leave nothing behind."""

from __future__ import annotations

import pytest

from device_svc.engine_api import EngineFailure
from device_svc.request import Finish
from tests.support.fake_core import FakeEngine, expected_tokens
from tests.support.stepping import Driver

POISON = 700


def driver(*, slots: int) -> Driver:
    return Driver(FakeEngine(spoil_id=POISON, slots=slots))


def test_in_prefill_it_ends_before_its_first_token() -> None:
    stepping = driver(slots=2)
    stepping.submit(1, [1, 2, 3], max_tokens=6)
    stepping.submit(2, [5, POISON, 6])
    stepping.run()
    assert (stepping.ids(1), stepping.finish(1)) == (expected_tokens([1, 2, 3], 6), Finish.LENGTH)
    assert (stepping.ids(2), stepping.finish(2)) == ([], Finish.ERROR)


def test_in_decode_the_others_of_the_step_get_their_tokens() -> None:
    # 345 + 353 + 2 = 700 is drawn and put in, and what follows it is NaN.
    assert expected_tokens([345, 353], 1) == [POISON]
    stepping = driver(slots=3)
    prompts = {1: [1, 2, 3], 2: [345, 353], 3: [9]}
    for key, prompt in prompts.items():
        stepping.submit(key, prompt, max_tokens=8)
    stepping.run()
    assert (stepping.ids(2), stepping.finish(2)) == ([POISON], Finish.ERROR)
    for key in (1, 3):
        assert stepping.ids(key) == expected_tokens(prompts[key], 8)


def test_its_rows_are_wiped_and_reused_by_nobody() -> None:
    stepping = driver(slots=1)
    prompt = [POISON, *range(100)]
    stepping.submit(1, prompt)
    stepping.run()
    stepping.submit(2, range(100, 300))
    stepping.run()
    assert stepping.ids(2) == expected_tokens(range(100, 300), 4)
    stepping.submit(3, prompt)
    stepping.run()
    assert [accepted.cached_tokens for accepted in stepping.accepted] == [0, 0, 0]
    assert stepping.finish(3) is Finish.ERROR


def test_a_step_with_nothing_but_nan_is_the_chips_fault() -> None:
    stepping = driver(slots=2)
    for key in (1, 2):
        stepping.submit(key, [345, 353], max_tokens=8)
    with pytest.raises(EngineFailure, match="all 2 requests of a step: NaN"):
        stepping.run()
