"""Random submits, cancels, disconnects and deadlines: nothing is lost, leaked or mixed up."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from device_svc.engine_api import Sampling
from device_svc.request import Finish
from tests.support.fake_core import FakeEngine, expected_tokens
from tests.support.stepping import Driver

CONTEXT = 24
VOCAB = 64


@dataclass
class Asked:
    """What was asked for, and the tokens of a solo run (as many as context and limit allow)."""

    solo: list[int]
    resumed: int
    stops: bool
    cancelled: bool
    deadline_s: float | None
    owner: int


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(
        slots=st.integers(1, 4),
        rows=st.integers(1, 4),
        chunk=st.integers(1, 8),
        budget_s=st.sampled_from([0.001, 0.25, 10.0]),
    )
    def start(self, slots: int, rows: int, chunk: int, budget_s: float) -> None:
        self.engine = FakeEngine(
            slots=slots,
            decode_rows=rows,
            context_length=CONTEXT,
            chunk_tokens=chunk,
            vocab_size=VOCAB,
        )
        self.driver = Driver(self.engine, itl_budget_s=budget_s, chunk_s=0.1, decode_s=0.01)
        self.asked: dict[int, Asked] = {}

    @rule(
        prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=CONTEXT - 2),
        max_tokens=st.integers(1, 12),
        resumed=st.integers(0, 11),
        seed=st.integers(0, 9),
        stop_at=st.none() | st.integers(0, 11),
        priority=st.integers(1, 4),
        deadline_s=st.none() | st.floats(0, 3),
        owner=st.integers(0, 2),
    )
    def submit(
        self,
        prompt: list[int],
        max_tokens: int,
        resumed: int,
        seed: int,
        stop_at: int | None,
        priority: int,
        deadline_s: float | None,
        owner: int,
    ) -> None:
        limit = min(max_tokens, CONTEXT - len(prompt))
        solo = expected_tokens(prompt, limit, seed=seed, vocab_size=VOCAB)
        resumed = min(resumed, limit - 1)
        stop_ids: list[int] = []
        if stop_at is not None and resumed <= stop_at < limit:
            stop = solo[stop_at]
            if stop not in solo[:resumed]:
                stop_ids = [stop]
                solo = solo[: solo.index(stop) + 1]
        key = len(self.asked) + 1
        due_s = None if deadline_s is None else self.driver.now_s + deadline_s
        self.asked[key] = Asked(solo, resumed, bool(stop_ids), False, due_s, owner)
        self.driver.submit(
            key,
            prompt,
            max_tokens=max_tokens,
            stop_ids=stop_ids,
            resume_ids=solo[:resumed],
            priority=priority,
            deadline_s=due_s,
            sampling=Sampling(seed=seed),
        )

    @rule(pick=st.integers(0, 1000))
    def cancel(self, pick: int) -> None:
        if self.asked:
            self._cancel(pick % len(self.asked) + 1)

    @rule(owner=st.integers(0, 2))
    def disconnect(self, owner: int) -> None:
        for key, asked in self.asked.items():
            if asked.owner == owner:
                self._cancel(key)

    @rule(count=st.integers(1, 12))
    def steps(self, count: int) -> None:
        for _ in range(count):
            self.driver.step()

    @rule(wait_s=st.floats(0, 1))
    def time_passes(self, wait_s: float) -> None:
        self.driver.now_s += wait_s

    def _cancel(self, key: int) -> None:
        self.driver.collect()
        if self.driver.finish(key) is None:
            self.asked[key].cancelled = True
        self.driver.scheduler.cancel(key)
        self.driver.collect()

    @invariant()
    def slots_are_leased_to_the_running_only(self) -> None:
        leased = self.engine.slots - self.driver.pool.free
        assert leased == self.driver.scheduler.running <= self.engine.slots

    @invariant()
    def emitted_tokens_are_those_of_a_solo_run(self) -> None:
        for key, asked in self.asked.items():
            ids = self.driver.ids(key)
            assert ids == asked.solo[asked.resumed : asked.resumed + len(ids)]

    def teardown(self) -> None:
        if not hasattr(self, "driver"):
            return
        self.driver.run()
        assert self.driver.pool.free == self.engine.slots
        assert [self.engine.length(slot) for slot in range(self.engine.slots)] == (
            [0] * self.engine.slots
        )
        for key, asked in self.asked.items():
            self._check_end(key, asked)

    def _check_end(self, key: int, asked: Asked) -> None:
        finish, ids = self.driver.finish(key), self.driver.ids(key)
        if asked.cancelled:
            assert finish is Finish.CANCELLED
        elif finish is Finish.DEADLINE:
            assert asked.deadline_s is not None
            assert asked.deadline_s <= self.driver.now_s
        else:
            assert ids == asked.solo[asked.resumed :]
            assert finish is (Finish.STOP if asked.stops else Finish.LENGTH)


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
