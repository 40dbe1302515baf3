"""A request of a higher class takes a slot; who lost it goes on as if nothing had happened."""

from __future__ import annotations

from device_svc.engine_api import Sampling
from device_svc.request import Finish
from device_svc.scheduler import Policy
from tests.support.fake_core import FakeEngine, FakeSampled, expected_tokens
from tests.support.stepping import Driver, name_of

ROW_BYTES = 16


def test_a_higher_class_takes_the_slot_and_gives_it_back() -> None:
    driver = Driver(FakeEngine(slots=1))
    driver.submit(1, [1, 2, 3], max_tokens=6, priority=1)
    for _ in range(3):
        driver.step()
    driver.submit(2, [7], max_tokens=2, priority=2)
    assert name_of(driver.step()) == "prefill 2"
    assert driver.report is not None
    # Three prompt rows and two of decode steps.
    assert (driver.report.saved_bytes, driver.report.running) == (5 * ROW_BYTES, 1)
    driver.run()
    assert driver.ids(1) == expected_tokens([1, 2, 3], 6)
    assert driver.ids(2) == expected_tokens([7], 2)
    assert [e.key for e in driver.emissions] == [1, 1, 1, 2, 2, 1, 1, 1]
    # Its first token's launch is not repeated, and it is accepted once.
    assert driver.engine.launches == 6 + 2
    assert [a.key for a in driver.accepted] == [1, 2]
    assert driver.scheduler.saved_bytes == 0


def test_an_equal_class_waits() -> None:
    driver = Driver(FakeEngine(slots=1))
    driver.submit(1, [1, 2, 3], max_tokens=6, priority=2)
    driver.step()
    driver.submit(2, [7], max_tokens=2, priority=2)
    driver.run()
    assert [e.key for e in driver.emissions] == [1] * 6 + [2] * 2


def test_nobody_is_preempted_while_a_slot_is_free() -> None:
    driver = Driver(FakeEngine(slots=2))
    driver.submit(1, [1, 2, 3], max_tokens=6, priority=1)
    driver.step()
    driver.submit(2, [7], max_tokens=2, priority=4)
    driver.run()
    assert [e.key for e in driver.emissions] == [1, 2, 1, 2, 1, 1, 1, 1]


def test_the_lowest_class_is_the_victim_and_of_it_the_last_that_came() -> None:
    driver = Driver(FakeEngine(slots=3), chunk_s=0.1)
    for key, priority in ((1, 2), (2, 1), (3, 1)):
        driver.submit(key, [key], max_tokens=5, priority=priority)
    for _ in range(3):
        driver.step()
    driver.submit(4, [4], max_tokens=3, priority=3)
    assert name_of(driver.step()) == "prefill 4"
    assert name_of(driver.step()) == "decode 1 2 4"
    driver.run()
    for key in (1, 2, 3):
        assert driver.ids(key) == expected_tokens([key], 5)


def test_a_half_filled_prompt_is_saved_too() -> None:
    engine = FakeEngine(slots=1, chunk_tokens=4)
    driver = Driver(engine)
    driver.submit(1, range(10), max_tokens=2, priority=1)
    driver.step()
    driver.submit(2, range(50, 59), max_tokens=1, priority=2)
    names = [name_of(driver.step()) for _ in range(6)]
    assert names == ["prefill 2"] * 3 + ["prefill 1"] * 2 + ["decode 1"]
    assert driver.ids(1) == expected_tokens(range(10), 2)


def test_the_bits_of_a_preempted_request_are_those_of_a_run_alone() -> None:
    def bits(*, preempted: bool) -> list[int]:
        driver = Driver(FakeEngine(slots=1, chunk_tokens=4))
        sampling = Sampling(seed=3, logprobs=0)
        driver.submit(1, range(10), max_tokens=6, priority=1, sampling=sampling)
        for _ in range(5):
            driver.step()
        if preempted:
            driver.submit(2, range(20), max_tokens=3, priority=2)
        driver.run()
        found = []
        for emission in driver.emissions:
            for sampled in emission.logprobs:
                assert isinstance(sampled, FakeSampled)
                found.append(sampled.bits)
        return found

    assert bits(preempted=True) == bits(preempted=False)


def test_over_the_budget_of_host_memory_the_higher_class_waits() -> None:
    driver = Driver(FakeEngine(slots=1), policy=Policy(preempt_host_bytes=4 * ROW_BYTES))
    driver.submit(1, range(5), max_tokens=3, priority=1)
    driver.step()
    driver.submit(2, [7], max_tokens=1, priority=4)
    driver.run()
    assert [e.key for e in driver.emissions] == [1, 1, 1, 2]


def test_what_is_saved_counts_against_the_budget_until_it_is_restored() -> None:
    driver = Driver(FakeEngine(slots=1), policy=Policy(preempt_host_bytes=4 * ROW_BYTES))
    driver.submit(1, range(3), max_tokens=9, priority=1)
    driver.step()
    driver.submit(2, range(3), max_tokens=2, priority=2)
    driver.step()
    # Three rows are saved: one more would do, three more do not.
    driver.submit(3, [7], max_tokens=1, priority=3)
    driver.run()
    assert [e.key for e in driver.emissions] == [1, 2, 2, 3] + [1] * 8


def test_preempted_requests_can_be_cancelled_and_expire() -> None:
    driver = Driver(FakeEngine(slots=1), decode_s=1.0)
    driver.submit(1, [1, 2, 3], max_tokens=9, priority=1)
    driver.step()
    driver.submit(2, [4], max_tokens=9, priority=2, deadline_s=5.0)
    driver.step()
    driver.submit(3, [5], max_tokens=9, priority=3)
    driver.step()
    assert driver.scheduler.saved_bytes == (3 + 1) * ROW_BYTES
    driver.scheduler.cancel(1)
    assert driver.scheduler.saved_bytes == 1 * ROW_BYTES
    driver.run()
    assert (driver.ids(1), driver.finish(1)) == ([9], Finish.CANCELLED)
    assert (driver.ids(2), driver.finish(2)) == (expected_tokens([4], 1), Finish.DEADLINE)
    assert driver.ids(3) == expected_tokens([5], 9)
    assert driver.scheduler.saved_bytes == 0


def test_a_stream_of_higher_requests_does_not_starve_a_lower_one() -> None:
    """One request of class 4 a second, each of two seconds; each thirty seconds raise the other."""
    driver = Driver(FakeEngine(slots=1), decode_s=1.0)
    driver.submit(0, [1], max_tokens=20, priority=1)
    key = 0
    while driver.finish(0) is None:
        key += 1
        driver.submit(key, [key], max_tokens=3, priority=4)
        driver.step()
        assert driver.now_s < 300
    assert driver.ids(0) == expected_tokens([1], 20)
    # Once it has aged enough it is not preempted any more.
    order = [e.key for e in driver.emissions]
    assert order[-19:] == [0] * 19
