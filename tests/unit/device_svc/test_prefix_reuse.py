"""The scheduler over a prefix cache: fewer launches, the same tokens, the same bits."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from device_svc.engine_api import Sampling
from device_svc.prefix_cache import PrefixMode
from device_svc.scheduler import Policy
from tests.support.fake_core import FakeEngine, FakeSampled, expected_tokens
from tests.support.stepping import Driver

PROMPT = list(range(100, 122))
SEEDED = Sampling(seed=7, logprobs=0)


def driver_of(mode: PrefixMode = PrefixMode.EXACT, *, slots: int = 2) -> Driver:
    return Driver(FakeEngine(slots=slots, chunk_tokens=4), policy=Policy(mode))


def bits(driver: Driver, key: int) -> list[int]:
    found = []
    for emission in driver.emissions:
        for sampled in emission.logprobs if emission.key == key else ():
            assert isinstance(sampled, FakeSampled)
            found.append(sampled.bits)
    return found


def cold_bits(prompt: Sequence[int], resume_ids: Sequence[int] = ()) -> list[int]:
    driver = driver_of(PrefixMode.OFF)
    driver.submit(1, prompt, sampling=SEEDED, resume_ids=resume_ids)
    driver.run()
    return bits(driver, 1)


def cached(driver: Driver) -> list[int]:
    return [accepted.cached_tokens for accepted in driver.accepted]


@pytest.mark.parametrize("together", [False, True])
def test_a_shared_prefix_is_computed_once(together: bool) -> None:
    """Twenty of 22 tokens are whole chunks; of requests that come together the second waits."""
    driver = driver_of()
    for key in (1, 2):
        driver.submit(key, [*PROMPT, key], sampling=SEEDED)
        if not together:
            driver.run()
    driver.run()
    assert cached(driver) == [0, 20]
    for key in (1, 2):
        assert driver.ids(key) == expected_tokens([*PROMPT, key], 4, seed=7)
        assert bits(driver, key) == cold_bits([*PROMPT, key])
    shared_steps = 3 if together else 2 * 3
    assert driver.engine.launches == 6 + 1 + shared_steps


def test_the_next_turn_reuses_the_prompt_exactly_and_the_answer_in_fast_mode() -> None:
    answer = expected_tokens(PROMPT, 4, seed=7)
    turn = [*PROMPT, *answer, 5, 6]
    exact, fast = driver_of(), driver_of(PrefixMode.FAST)
    for driver in (exact, fast):
        driver.submit(1, PROMPT, sampling=SEEDED)
        driver.run()
        driver.submit(2, turn, sampling=SEEDED)
        driver.run()
        assert driver.ids(2) == expected_tokens(turn, 4, seed=7)
    # The answer's last token was never put into the KV.
    assert (cached(exact), cached(fast)) == ([0, 20], [0, len(PROMPT) + 3])
    assert bits(exact, 2) == cold_bits(turn)
    assert bits(fast, 2) != cold_bits(turn)


def test_off_reuses_nothing() -> None:
    driver = driver_of(PrefixMode.OFF)
    for key in (1, 2):
        driver.submit(key, PROMPT)
        driver.run()
    assert cached(driver) == [0, 0]


def test_replay_behind_a_reused_prefix_is_exact() -> None:
    answer = expected_tokens(PROMPT, 4, seed=7)
    driver = driver_of()
    driver.submit(1, PROMPT, sampling=SEEDED)
    driver.run()
    driver.submit(2, PROMPT, sampling=SEEDED, resume_ids=answer[:2])
    driver.run()
    assert driver.ids(2) == answer[2:]
    assert bits(driver, 2) == bits(driver, 1)[2:]
    assert cached(driver) == [0, 20]


@pytest.mark.parametrize("delivered", range(4))
def test_resume_by_prefill_draws_the_next_token_after_one_launch_per_chunk(delivered: int) -> None:
    answer = expected_tokens(PROMPT, 4, seed=7)
    driver = driver_of()
    driver.submit(1, PROMPT, sampling=SEEDED, resume_ids=answer[:delivered], resume_by_prefill=True)
    driver.run()
    assert driver.ids(1) == answer[delivered:]
    chunks = -(-(len(PROMPT) + delivered) // 4)
    assert driver.engine.launches == chunks + 3 - delivered


def test_resume_by_prefill_replays_what_no_prompt_may_hold() -> None:
    """Without history a prompt has at most one chunk: 6 of 8."""
    answer = expected_tokens([1, 2, 3, 4, 5, 6], 6)
    driver = Driver(FakeEngine(chunk_tokens=8, history=False))
    driver.submit(1, range(1, 7), max_tokens=6, resume_ids=answer[:4], resume_by_prefill=True)
    driver.run()
    assert driver.ids(1) == answer[4:]
    # A prefill with two resume ids, two replayed, one more decode step.
    assert driver.engine.launches == 1 + 2 + 1


def test_reports_count_looked_up_and_found_tokens() -> None:
    driver = driver_of()
    for key in (1, 2):
        driver.submit(key, PROMPT, max_tokens=1)
        step = driver.scheduler.schedule()
        assert step is not None
        report = driver.scheduler.take_report()
        assert report is not None
        assert report.queried_tokens == len(PROMPT)
        driver.scheduler.cancel(key)
        driver.run()
