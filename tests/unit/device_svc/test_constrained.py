"""Requests with an output format in the scheduler; the engine draws the next id allowed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from device_svc.request import Finish
from device_svc.steps import DecodeStep, run_moves, run_step
from device_svc.token_masks import Complete, NextTokens, Stuck
from tests.support.fake_core import FakeEngine, expected_tokens
from tests.support.stepping import Driver

VOCAB = 1024


class Steps:
    """Each token must be within the next of the ranges; then the text is complete, or stuck."""

    def __init__(self, *ranges: range, told: bool = True, stuck: bool = False) -> None:
        self._ranges = ranges
        self._told = told
        self._stuck = stuck
        self.taken: list[int] = []

    def next_tokens(self) -> NextTokens:
        if len(self.taken) == len(self._ranges):
            return Stuck("nothing fits") if self._stuck else Complete()
        bits = np.zeros(VOCAB, np.uint8)
        bits[self._ranges[len(self.taken)]] = 1
        return np.packbits(bits, bitorder="little").view(np.uint32)

    def accept(self, token: int) -> bool:
        self.taken.append(token)
        return self._told and not self._stuck and len(self.taken) == len(self._ranges)


def test_only_tokens_of_the_mask_are_drawn_and_the_last_one_ends_it() -> None:
    driver = Driver(FakeEngine())
    matcher = Steps(range(100, 200), range(5, 7), range(300, 400))
    driver.submit(1, [1, 2, 3], max_tokens=9, matcher=matcher)
    driver.run()
    assert driver.ids(1) == matcher.taken == [100, 5, 300]
    assert [e.finish for e in driver.emissions] == [None, None, Finish.STOP]
    assert driver.scheduler.free_slots == 4


def test_a_completion_that_shows_at_the_next_mask_ends_without_a_token() -> None:
    driver = Driver(FakeEngine())
    driver.submit(1, [1, 2, 3], max_tokens=9, matcher=Steps(range(100, 200), told=False))
    driver.run()
    assert driver.ids(1) == [100]
    assert (driver.emissions[-1].ids, driver.emissions[-1].finish) == ((), Finish.STOP)


def test_the_completing_token_ends_it_well_even_as_the_last_one() -> None:
    driver = Driver(FakeEngine())
    driver.submit(1, [1, 2, 3], max_tokens=1, matcher=Steps(range(100, 200)))
    driver.submit(2, [1, 2, 3], max_tokens=1, matcher=Steps(range(100, 200), range(9)))
    driver.run()
    assert (driver.finish(1), driver.finish(2)) == (Finish.STOP, Finish.LENGTH)


def test_a_text_that_cannot_go_on_ends_with_its_reason() -> None:
    driver = Driver(FakeEngine(slots=2))
    driver.submit(1, [1, 2, 3], max_tokens=9, matcher=Steps(range(100, 200), stuck=True))
    driver.submit(2, [4, 5], max_tokens=6)
    driver.run()
    [last] = [e for e in driver.emissions if e.key == 1 and e.finish is not None]
    assert (last.finish, last.reason) == (Finish.ERROR, "nothing fits")
    assert driver.ids(2) == expected_tokens([4, 5], 6)
    assert driver.scheduler.free_slots == 2


def test_a_mask_without_a_token_ends_it_with_a_reason() -> None:
    driver = Driver(FakeEngine())
    driver.submit(1, [1, 2, 3], matcher=Steps(range(0)))
    driver.run()
    assert driver.emissions[-1].reason == "output_format: no token is left"
    assert driver.finish(1) is Finish.ERROR


def test_an_end_at_once_draws_nothing() -> None:
    driver = Driver(FakeEngine())
    driver.submit(1, [1, 2, 3], matcher=Steps())
    driver.run()
    assert driver.ids(1) == []
    assert driver.finish(1) is Finish.STOP


def test_free_and_constrained_requests_share_steps_and_change_nothing() -> None:
    ranges = (range(100, 200), range(5, 7), range(300, 400), range(50, 60))

    def submit_all(driver: Driver, keys: tuple[int, ...]) -> None:
        for key in keys:
            prompt = [key, key + 1]
            if key % 2:
                driver.submit(key, prompt, max_tokens=8)
            else:
                driver.submit(key, prompt, max_tokens=8, matcher=Steps(*ranges[: key + 1]))

    alone: dict[int, list[int]] = {}
    for key in range(4):
        driver = Driver(FakeEngine())
        submit_all(driver, (key,))
        driver.run()
        alone[key] = driver.ids(key)
    together = Driver(FakeEngine())
    submit_all(together, (0, 1, 2, 3))
    together.run()
    assert {key: together.ids(key) for key in range(4)} == alone
    assert alone[1] == expected_tokens([1, 2], 8)


@pytest.mark.parametrize("by_prefill", [False, True])
@pytest.mark.parametrize("delivered", [1, 2, 3])
def test_a_resumed_request_draws_from_where_its_matcher_is(
    delivered: int, by_prefill: bool
) -> None:
    ranges = (range(100, 200), range(5, 7), range(300, 400), range(50, 60))
    whole = Driver(FakeEngine())
    whole.submit(1, [1, 2, 3], max_tokens=9, matcher=Steps(*ranges))
    whole.run()
    ids = whole.ids(1)
    resumed = Driver(FakeEngine())
    resumed.submit(
        *(1, [1, 2, 3]),
        max_tokens=9,
        resume_ids=ids[:delivered],
        resume_by_prefill=by_prefill,
        matcher=Steps(*ranges[delivered:]),
    )
    resumed.run()
    assert resumed.ids(1) == ids[delivered:]
    assert resumed.finish(1) is Finish.STOP


def test_masks_are_found_while_the_engine_works() -> None:
    """The launch waits until the mask's thread has been in the matcher."""
    with ThreadPoolExecutor(1) as pool:
        driver = Driver(FakeEngine())
        matcher = Steps(range(100, 200), range(5, 7), range(7, 9))
        driver.submit(1, [1, 2, 3], max_tokens=9, matcher=matcher)
        driver.step()
        looked: list[str] = []

        def next_tokens() -> NextTokens:
            looked.append("mask")
            return Steps.next_tokens(matcher)

        matcher.next_tokens = next_tokens  # type: ignore[method-assign]
        pool.submit(int).result()
        step = driver.scheduler.schedule()
        assert isinstance(step, DecodeStep)
        run_moves(driver.engine, driver.scheduler.take_moves())
        driver.engine.before_launch = lambda: pool.submit(looked.append, "launch").result()
        run_step(driver.engine, step, pool)
        assert looked == ["mask", "launch"]
