"""Random submits, cancels, disconnects and deadlines: nothing is lost, leaked or mixed up.

Every request is also run alone on a cold engine. Its tokens must be the same in company, and so
must the bits of its logits, unless rows of another making were allowed.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from device_svc.engine_api import Sampling
from device_svc.prefix_cache import PrefixMode
from device_svc.request import Finish
from device_svc.scheduler import Policy
from tests.support.fake_core import FakeEngine, FakeSampled, expected_tokens
from tests.support.stepping import Driver

CONTEXT = 40
VOCAB = 64
PREFIXES: tuple[list[int], ...] = ([], [5] * 30, list(range(1, 31)), [5] * 12 + list(range(40, 50)))


@dataclass
class Asked:
    """What was asked for, and token and bits of each step of a run alone."""

    solo: list[tuple[int, int]]
    stops: bool
    cancelled: bool
    deadline_s: float | None
    owner: int


def drawn(driver: Driver, key: int) -> list[tuple[int, int]]:
    """Token and bits of each emission."""
    found = []
    for emission in driver.emissions:
        if emission.key == key:
            for sampled in emission.logprobs:
                assert isinstance(sampled, FakeSampled)
                found.append((sampled.token, sampled.bits))
    return found


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(
        slots=st.integers(1, 4),
        rows=st.integers(1, 4),
        chunk=st.integers(1, 8),
        history=st.sampled_from([True, True, True, False]),
        mode=st.sampled_from(PrefixMode),
        budget_s=st.sampled_from([0.001, 0.25, 10.0]),
        preempt_host_bytes=st.sampled_from([0, 16 * 20, 1 << 20]),
    )
    def start(
        self,
        slots: int,
        rows: int,
        chunk: int,
        history: bool,
        mode: PrefixMode,
        budget_s: float,
        preempt_host_bytes: int,
    ) -> None:
        self.chunk = chunk if history else CONTEXT - 1
        self.history = history
        self.engine = self._engine(slots=slots, rows=rows)
        self.policy = Policy(mode, preempt_host_bytes)
        self.driver = Driver(
            self.engine, policy=self.policy, itl_budget_s=budget_s, chunk_s=0.1, decode_s=0.01
        )
        self.asked: dict[int, Asked] = {}

    def _engine(self, *, slots: int, rows: int) -> FakeEngine:
        return FakeEngine(
            slots=slots,
            decode_rows=rows,
            context_length=CONTEXT,
            chunk_tokens=self.chunk,
            vocab_size=VOCAB,
            history=self.history,
        )

    @rule(
        prefix=st.sampled_from(PREFIXES),
        shared=st.integers(0, 30),
        rest=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=8),
        max_tokens=st.integers(1, 12),
        resumed=st.integers(0, 11),
        by_prefill=st.booleans(),
        seed=st.integers(0, 9),
        stop_at=st.none() | st.integers(0, 11),
        priority=st.integers(1, 4),
        key=st.sampled_from([None, None, "a", "b"]),
        deadline_s=st.none() | st.floats(0, 3),
        owner=st.integers(0, 2),
    )
    def submit(
        self,
        prefix: list[int],
        shared: int,
        rest: list[int],
        max_tokens: int,
        resumed: int,
        by_prefill: bool,
        seed: int,
        stop_at: int | None,
        priority: int,
        key: str | None,
        deadline_s: float | None,
        owner: int,
    ) -> None:
        prompt = prefix[:shared] + rest
        limit = min(max_tokens, CONTEXT - len(prompt))
        ids = expected_tokens(prompt, limit, seed=seed, vocab_size=VOCAB)
        resumed = min(resumed, limit - 1)
        stop_ids: list[int] = []
        if stop_at is not None and resumed <= stop_at < limit:
            stop = ids[stop_at]
            if stop not in ids[:resumed]:
                stop_ids = [stop]
                ids = ids[: ids.index(stop) + 1]
        number = len(self.asked) + 1
        due_s = None if deadline_s is None else self.driver.now_s + deadline_s
        solo = Driver(self._engine(slots=1, rows=1), policy=Policy(PrefixMode.OFF))
        for driver in (solo, self.driver):
            driver.submit(
                number,
                prompt,
                max_tokens=max_tokens,
                stop_ids=stop_ids,
                resume_ids=ids[:resumed],
                resume_by_prefill=by_prefill,
                priority=priority,
                prefix_key=key,
                deadline_s=due_s if driver is self.driver else None,
                sampling=Sampling(seed=seed, logprobs=0),
            )
        solo.run()
        assert solo.ids(number) == ids[resumed:]
        self.asked[number] = Asked(drawn(solo, number), bool(stop_ids), False, due_s, owner)

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

    @rule(wait_s=st.floats(0, 1) | st.floats(10, 40))
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
        leased = self.engine.slots - self.driver.scheduler.free_slots
        assert leased == self.driver.scheduler.running <= self.engine.slots

    @invariant()
    def saved_rows_stay_in_their_budget(self) -> None:
        assert 0 <= self.driver.scheduler.saved_bytes <= self.policy.preempt_host_bytes

    @invariant()
    def emitted_tokens_are_those_of_a_solo_run(self) -> None:
        for key, asked in self.asked.items():
            got = drawn(self.driver, key)
            expected = asked.solo[: len(got)]
            if self.policy.prefix is PrefixMode.FAST:
                assert [token for token, _ in got] == [token for token, _ in expected]
            else:
                assert got == expected

    def teardown(self) -> None:
        if not hasattr(self, "driver"):
            return
        self.driver.run()
        assert self.driver.scheduler.free_slots == self.engine.slots
        assert self.driver.scheduler.saved_bytes == 0
        if self.driver.report is not None:
            assert (self.driver.report.running, self.driver.report.kv_tokens) == (0, 0)
        lengths = [self.engine.length(slot) for slot in range(self.engine.slots)]
        if self.policy.prefix is PrefixMode.OFF or not self.history:
            assert lengths == [0] * self.engine.slots
        elif self.policy.prefix is PrefixMode.EXACT:
            assert all(length % self.chunk == 0 for length in lengths)
        for key, asked in self.asked.items():
            self._check_end(key, asked)

    def _check_end(self, key: int, asked: Asked) -> None:
        finish, got = self.driver.finish(key), drawn(self.driver, key)
        if asked.cancelled:
            assert finish is Finish.CANCELLED
        elif finish is Finish.DEADLINE:
            assert asked.deadline_s is not None
            assert asked.deadline_s <= self.driver.now_s
        else:
            assert len(got) == len(asked.solo)
            assert finish is (Finish.STOP if asked.stops else Finish.LENGTH)


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
