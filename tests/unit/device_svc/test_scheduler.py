"""The scheduler over the arithmetic engine: after 1, 2, 3 come 9, 19, 39, 79."""

from __future__ import annotations

import itertools

import pytest

from device_svc.engine_api import EngineFailure, Sampling
from device_svc.request import Finish
from device_svc.steps import PrefillStep
from tests.support.fake_core import FakeEngine, expected_tokens
from tests.support.stepping import Driver, name_of


def test_a_request_gets_a_slot_its_tokens_and_one_finish() -> None:
    driver = Driver(FakeEngine(slots=2))
    driver.submit(7, [1, 2, 3])
    driver.run()
    assert [(a.key, a.slot, a.cached_tokens) for a in driver.accepted] == [(7, 0, 0)]
    assert driver.ids(7) == [9, 19, 39, 79]
    assert [e.finish for e in driver.emissions] == [None, None, None, Finish.LENGTH]
    assert driver.scheduler.free_slots == 2


def test_each_step_yields_one_token_at_once() -> None:
    driver = Driver(FakeEngine())
    driver.submit(1, [1, 2, 3])
    assert name_of(driver.step()) == "prefill 1"
    assert driver.ids(1) == [9]
    assert name_of(driver.step()) == "decode 1"
    assert driver.ids(1) == [9, 19]


def test_a_stop_id_is_the_last_id() -> None:
    driver = Driver(FakeEngine())
    driver.submit(1, [1, 2, 3], max_tokens=9, stop_ids=[39, 500])
    driver.run()
    assert driver.ids(1) == [9, 19, 39]
    assert driver.finish(1) is Finish.STOP


def test_the_first_token_may_be_the_last() -> None:
    driver = Driver(FakeEngine(slots=1))
    driver.submit(1, [1, 2, 3], max_tokens=1)
    driver.submit(2, [1, 2, 3], max_tokens=9, stop_ids=[9])
    driver.step()
    assert driver.finish(1) is Finish.LENGTH
    assert driver.scheduler.free_slots == 1
    driver.step()
    assert driver.finish(2) is Finish.STOP


def test_the_context_end_is_a_length_finish() -> None:
    engine = FakeEngine(context_length=6)
    driver = Driver(engine)
    driver.submit(1, [1, 2, 3], max_tokens=100)
    driver.run()
    assert driver.ids(1) == [9, 19, 39]
    assert driver.finish(1) is Finish.LENGTH


def test_sampling_takes_the_seed_and_gives_logprobs() -> None:
    driver = Driver(FakeEngine())
    driver.submit(1, [1, 2, 3], max_tokens=3, sampling=Sampling(seed=5, logprobs=1))
    driver.run()
    assert driver.ids(1) == expected_tokens([1, 2, 3], 3, seed=5) == [14, 34, 74]
    sampled = driver.emissions[0].logprobs[0]
    assert (sampled.token, sampled.logprob, list(sampled.top)) == (14, -1.0, [(15, -2.0)])


def test_requests_share_decode_steps_and_keep_their_tokens() -> None:
    driver = Driver(FakeEngine(slots=3))
    prompts = {1: [1, 2, 3], 2: [4], 3: [10, 20]}
    for key, prompt in prompts.items():
        driver.submit(key, prompt, max_tokens=5)
    driver.run()
    for key, prompt in prompts.items():
        assert driver.ids(key) == expected_tokens(prompt, 5)
    # Three prompts, then four decode steps for all together.
    assert driver.engine.launches == 3 + 4


def test_one_row_per_launch_takes_turns() -> None:
    driver = Driver(FakeEngine(slots=3, decode_rows=1), itl_budget_s=10)
    for key in (1, 2, 3):
        driver.submit(key, [key], max_tokens=3)
    names = [name_of(driver.step()) for _ in range(9)]
    assert names == [f"prefill {k}" for k in (1, 2, 3)] + [f"decode {k}" for k in (1, 2, 3)] * 2


def test_waiting_goes_by_priority_then_arrival() -> None:
    driver = Driver(FakeEngine(slots=1))
    driver.submit(1, [1], max_tokens=2)
    driver.step()
    driver.submit(2, [1], max_tokens=1, priority=1)
    driver.submit(3, [1], max_tokens=1, priority=2)
    driver.submit(4, [1], max_tokens=1, priority=2)
    driver.run()
    assert [a.key for a in driver.accepted] == [1, 3, 4, 2]
    assert {a.slot for a in driver.accepted} == {0}


def test_a_freed_slot_is_taken_in_the_next_step() -> None:
    driver = Driver(FakeEngine(slots=1))
    driver.submit(1, [1], max_tokens=1)
    driver.submit(2, [2], max_tokens=1)
    assert [name_of(driver.step()) for _ in range(3)] == ["prefill 1", "prefill 2", "none"]


def test_a_long_prompt_is_prefilled_in_chunks() -> None:
    driver = Driver(FakeEngine(chunk_tokens=4))
    prompt = list(range(10))
    driver.submit(1, prompt, max_tokens=2)
    chunks = [driver.step() for _ in range(3)]
    assert [(s.position, len(s.ids), s.last) for s in chunks if isinstance(s, PrefillStep)] == [
        (0, 4, False),
        (4, 4, False),
        (8, 2, True),
    ]
    driver.run()
    assert driver.ids(1) == expected_tokens(prompt, 2)


def test_running_requests_decode_between_chunks() -> None:
    """Chunks of 100 ms and decode steps of 10 ms under 250 ms: two chunks, then a token."""
    driver = Driver(
        FakeEngine(slots=2, chunk_tokens=4), itl_budget_s=0.25, chunk_s=0.1, decode_s=0.01
    )
    driver.submit(1, [1], max_tokens=50)
    driver.step()
    driver.step()
    driver.submit(2, list(range(24)), max_tokens=1)
    names, gaps = [], []
    last_s = driver.now_s
    for _ in range(8):
        step = driver.step()
        names.append(name_of(step))
        if names[-1].startswith("decode"):
            gaps.append(driver.now_s - last_s)
            last_s = driver.now_s
    assert names == ["prefill 2", "prefill 2", "decode 1"] * 2 + ["prefill 2", "prefill 2"]
    assert max(gaps) <= 0.25


def test_a_budget_below_one_chunk_still_moves_prompts_on() -> None:
    driver = Driver(
        FakeEngine(slots=3, decode_rows=1, chunk_tokens=4),
        itl_budget_s=0.001,
        chunk_s=0.1,
        decode_s=0.01,
    )
    for key in (1, 2):
        driver.submit(key, [1], max_tokens=50)
    driver.step()
    while driver.scheduler.running < 2 or not driver.ids(2):
        driver.step()
    driver.submit(3, list(range(12)), max_tokens=1)
    # One token for each running request between two chunks; who is next depends on the past.
    names = [name_of(driver.step()).split()[0] for _ in range(9)]
    chunks = [index for index, name in enumerate(names) if name == "prefill"]
    assert [b - a for a, b in itertools.pairwise(chunks)] == [3, 3]


def test_a_higher_priority_prompt_overtakes_between_chunks() -> None:
    driver = Driver(FakeEngine(slots=2, chunk_tokens=4))
    driver.submit(1, list(range(12)), max_tokens=1, priority=1)
    driver.step()
    driver.submit(2, list(range(50, 58)), max_tokens=1, priority=2)
    names = [name_of(driver.step()) for _ in range(4)]
    assert names == ["prefill 2", "prefill 2", "prefill 1", "prefill 1"]
    assert driver.ids(1) == expected_tokens(range(12), 1)


@pytest.mark.parametrize("delivered", range(6))
def test_resume_replays_and_goes_on_with_the_same_tokens(delivered: int) -> None:
    unbroken = expected_tokens([1, 2, 3], 6, seed=9)
    driver = Driver(FakeEngine())
    driver.submit(
        1,
        [1, 2, 3],
        max_tokens=6,
        resume_ids=unbroken[:delivered],
        sampling=Sampling(seed=9),
    )
    driver.run()
    assert driver.ids(1) == unbroken[delivered:]
    assert driver.finish(1) is Finish.LENGTH
    # One prefill, then one launch per token behind the first: replaying is decoding.
    assert driver.engine.launches == 6


def test_a_replaying_request_shares_steps_with_others() -> None:
    unbroken = expected_tokens([5], 8)
    driver = Driver(FakeEngine())
    driver.submit(1, [1, 2, 3], max_tokens=8)
    driver.submit(2, [5], max_tokens=8, resume_ids=unbroken[:4])
    driver.run()
    assert driver.ids(1) == expected_tokens([1, 2, 3], 8)
    assert driver.ids(2) == unbroken[4:]


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_cancel_frees_the_slot_in_every_state(steps: int) -> None:
    """Waiting, between chunks, and decoding."""
    engine = FakeEngine(slots=1, chunk_tokens=2)
    driver = Driver(engine)
    driver.submit(1, [1, 2, 3], max_tokens=99)
    for _ in range(steps):
        driver.step()
    driver.scheduler.cancel(1)
    driver.scheduler.cancel(1)
    driver.collect()
    assert driver.finish(1) is Finish.CANCELLED
    assert driver.scheduler.free_slots == 1
    assert name_of(driver.step()) == "none"
    # Whole chunks stay for others.
    assert engine.length(0) == (2 if steps else 0)


def test_cancelling_an_unknown_key_does_nothing() -> None:
    driver = Driver(FakeEngine())
    driver.scheduler.cancel(5)
    driver.collect()
    assert driver.emissions == []


def test_deadlines_hold_while_waiting_and_running() -> None:
    driver = Driver(FakeEngine(slots=1), decode_s=1.0)
    driver.submit(1, [1, 2, 3], max_tokens=99, deadline_s=2.5)
    driver.submit(2, [4], max_tokens=1, deadline_s=1.5)
    driver.submit(3, [4], max_tokens=1)
    driver.step()
    for _ in range(3):
        driver.step()
    assert (driver.finish(2), driver.ids(2)) == (Finish.DEADLINE, [])
    assert driver.finish(1) is None
    driver.step()
    assert (driver.finish(1), driver.ids(1)) == (Finish.DEADLINE, [9, 19, 39, 79])
    assert driver.finish(3) is Finish.LENGTH


def test_a_later_deadline_holds_after_the_first_has_passed() -> None:
    driver = Driver(FakeEngine(slots=2), decode_s=1.0)
    driver.submit(1, [1], max_tokens=99, deadline_s=1.0)
    driver.submit(2, [1], max_tokens=99, deadline_s=4.0)
    driver.run()
    assert driver.finish(1) is driver.finish(2) is Finish.DEADLINE
    assert driver.now_s == 4.0


def test_a_refused_argument_hurts_its_request_only() -> None:
    """19 comes after 1, 2, 3, 9; the engine refuses it in a batch of two."""
    driver = Driver(FakeEngine(slots=2, refuse_id=19))
    driver.submit(1, [1, 2, 3], max_tokens=6)
    driver.submit(2, [7], max_tokens=6)
    driver.run()
    assert (driver.ids(1), driver.finish(1)) == ([9, 19], Finish.ERROR)
    assert (driver.ids(2), driver.finish(2)) == (expected_tokens([7], 6), Finish.LENGTH)


def test_a_refused_prompt_hurts_its_request_only() -> None:
    engine = FakeEngine(slots=2, context_length=8)
    driver = Driver(engine)
    driver.submit(1, list(range(9)))
    driver.submit(2, [1, 2])
    driver.run()
    assert driver.finish(1) is Finish.ERROR
    assert driver.ids(2) == expected_tokens([1, 2], 4)


def test_a_failure_ends_everything_with_an_error() -> None:
    driver = Driver(FakeEngine(slots=1, fail_at=2))
    driver.submit(1, [1, 2, 3])
    driver.submit(2, [1, 2, 3])
    driver.step()
    with pytest.raises(EngineFailure):
        driver.step()
    driver.scheduler.fail_all()
    driver.collect()
    assert driver.finish(1) is driver.finish(2) is Finish.ERROR
    assert not driver.scheduler.busy


def test_reports_count_tokens_rows_and_time() -> None:
    driver = Driver(FakeEngine(), chunk_s=0.5, decode_s=0.25)
    driver.submit(1, [1, 2, 3], max_tokens=3)
    driver.submit(2, [4], max_tokens=3)
    driver.step()
    report = driver.report
    assert report is not None
    assert (report.step, report.kind, report.prefill_tokens) == (1, "prefill", 3)
    assert (report.running, report.kv_tokens, report.engine_s) == (1, 3, 0.5)
    driver.step()
    driver.step()
    report = driver.report
    assert report is not None
    assert (report.step, report.kind, report.decode_tokens) == (3, "decode", 2)
    assert (report.running, report.kv_tokens, report.engine_s) == (2, 6, 0.25)
    driver.run()
    assert driver.report is not None
    assert (driver.report.running, driver.report.kv_tokens) == (0, 0)
