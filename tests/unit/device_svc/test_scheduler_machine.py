"""Random submits, cancels, disconnects and deadlines: nothing is lost, leaked or mixed up."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from device_svc.prefix_cache import PrefixMode
from device_svc.scheduler import Policy
from tests.support.scheduler_model import CONTEXT, VOCAB, SchedulerModel, Setting, Want

SETTINGS = st.builds(
    Setting,
    slots=st.integers(1, 4),
    rows=st.integers(1, 4),
    chunk=st.integers(0, 8),
    policy=st.builds(
        Policy,
        prefix=st.sampled_from(PrefixMode),
        preempt_host_bytes=st.sampled_from([1 << 20, 16 * 20, 0]),
    ),
    itl_budget_s=st.sampled_from([0.001, 0.25, 10.0]),
)
WANTS = st.builds(
    Want,
    prefix=st.integers(0, 30),
    shared=st.integers(0, CONTEXT),
    rest=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=8),
    max_tokens=st.integers(1, 12),
    resumed=st.just(0) | st.integers(0, 11),
    by_prefill=st.booleans(),
    seed=st.integers(0, 9),
    stop_at=st.none() | st.integers(0, 11),
    priority=st.integers(1, 4),
    key=st.sampled_from([None, None, "a", "b"]),
    deadline_s=st.none() | st.floats(0, 3),
    owner=st.integers(0, 5),
)


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(setting=SETTINGS)
    def start(self, setting: Setting) -> None:
        self.model = SchedulerModel(setting)

    @rule(wants=st.lists(WANTS, min_size=1, max_size=4))
    def submit(self, wants: list[Want]) -> None:
        for want in wants:
            self.model.submit(want)

    @rule(pick=st.integers(0, 1000))
    def cancel(self, pick: int) -> None:
        if self.model.asked:
            self.model.cancel(pick % len(self.model.asked) + 1)

    @rule(owner=st.integers(0, 5))
    def disconnect(self, owner: int) -> None:
        self.model.disconnect(owner)

    @rule(count=st.integers(1, 12))
    def steps(self, count: int) -> None:
        for _ in range(count):
            self.model.driver.step()

    @rule(wait_s=st.floats(0, 1) | st.floats(10, 100))
    def time_passes(self, wait_s: float) -> None:
        self.model.driver.now_s += wait_s

    @invariant()
    def what_always_holds(self) -> None:
        if hasattr(self, "model"):
            self.model.check()

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.model.finish()


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.parametrize("mode", PrefixMode)
@pytest.mark.parametrize("seed", range(12))
def test_a_long_mixed_load(mode: PrefixMode, seed: int) -> None:
    """What small cases reach seldom: prompts that share much, preemptions of the preempted."""
    choice = random.Random(seed)
    setting = Setting(
        slots=choice.randint(1, 3),
        rows=choice.randint(1, 4),
        chunk=choice.randint(1, 8),
        policy=Policy(mode, choice.choice([16 * 40, 1 << 20])),
    )
    model = SchedulerModel(setting)
    for _ in range(150):
        model.submit(_want(choice))
        for _ in range(choice.randrange(7)):
            model.driver.step()
            model.driver.now_s += choice.choice([0, 0, 0, 0, 0.3])
        if choice.random() < 0.1:
            model.cancel(choice.randint(1, len(model.asked)))
    model.finish()
    assert mode is PrefixMode.OFF or any(a.cached_tokens for a in model.driver.accepted)
    assert model.driver.preemptions


def _want(choice: random.Random) -> Want:
    return Want(
        prefix=choice.randrange(20),
        shared=choice.randrange(CONTEXT),
        rest=[choice.randrange(VOCAB) for _ in range(choice.randint(1, 8))],
        max_tokens=choice.randint(1, 12),
        resumed=choice.choice([0, 0, 0, 5]),
        by_prefill=choice.random() < 0.5,
        seed=choice.randrange(3),
        stop_at=choice.choice([None, None, 7]),
        priority=choice.randint(1, 4),
        key=choice.choice([None, None, "a", "b"]),
        deadline_s=choice.choice([None, None, None, 20.0]),
    )
