"""What a device scheduler owes its requests, checked while they are thrown at it.

Every request is also run alone on a cold engine. Its tokens must be the same in company, and so
must the bits of its logits, unless rows of another making were allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from device_svc.engine_api import Sampling
from device_svc.prefix_cache import PrefixMode
from device_svc.request import Finish
from device_svc.scheduler import Policy
from tests.support.fake_core import FakeEngine, FakeSampled, expected_tokens
from tests.support.stepping import Driver

CONTEXT = 40
VOCAB = 64
PREFIXES: tuple[list[int], ...] = (
    [],
    [5] * 30,
    list(range(1, 31)),
    [5] * 12 + list(range(40, 50)),
)


@dataclass(frozen=True)
class Setting:
    """chunk: prefill chunk in tokens; 0 for a bmodel without history."""

    slots: int
    rows: int
    chunk: int
    policy: Policy
    itl_budget_s: float = 0.25


@dataclass(frozen=True)
class Want:
    """A request. prefix: which start it shares with others, from len(PREFIXES) on an earlier
    request with its answer; shared: tokens of that. resumed, stop_at: counted in its completion.
    """

    prefix: int
    shared: int
    rest: Sequence[int]
    max_tokens: int
    resumed: int = 0
    by_prefill: bool = False
    seed: int = 0
    stop_at: int | None = None
    priority: int = 2
    key: str | None = None
    deadline_s: float | None = None
    owner: int = 0


@dataclass
class Asked:
    """all_ids: prompt and completion. solo: token and bits of each step of a run alone."""

    all_ids: list[int]
    solo: list[tuple[int, int]]
    stops: bool
    cancelled: bool
    deadline_s: float | None
    owner: int


class SchedulerModel:
    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.engine = self._engine(slots=setting.slots, rows=setting.rows)
        self.driver = Driver(
            self.engine,
            policy=setting.policy,
            itl_budget_s=setting.itl_budget_s,
            chunk_s=0.1,
            decode_s=0.01,
        )
        self.asked: dict[int, Asked] = {}

    def submit(self, want: Want) -> None:
        prompt = self._prompt(want)
        limit = min(want.max_tokens, CONTEXT - len(prompt))
        ids = expected_tokens(prompt, limit, seed=want.seed, vocab_size=VOCAB)
        resumed = min(want.resumed, limit - 1)
        stop_ids: list[int] = []
        if want.stop_at is not None and resumed <= want.stop_at < limit:
            stop = ids[want.stop_at]
            if stop not in ids[:resumed]:
                stop_ids = [stop]
                ids = ids[: ids.index(stop) + 1]
        number = len(self.asked) + 1
        due_s = None if want.deadline_s is None else self.driver.now_s + want.deadline_s
        solo = Driver(self._engine(slots=1, rows=1), policy=Policy(PrefixMode.OFF))
        for driver in (solo, self.driver):
            driver.submit(
                number,
                prompt,
                max_tokens=want.max_tokens,
                stop_ids=stop_ids,
                resume_ids=ids[:resumed],
                resume_by_prefill=want.by_prefill,
                priority=want.priority,
                prefix_key=want.key,
                deadline_s=due_s if driver is self.driver else None,
                sampling=Sampling(seed=want.seed, logprobs=0),
            )
        solo.run()
        assert solo.ids(number) == ids[resumed:]
        self.asked[number] = Asked(
            prompt + ids, _drawn(solo, number), bool(stop_ids), False, due_s, want.owner
        )

    def cancel(self, key: int) -> None:
        self.driver.collect()
        if self.driver.finish(key) is None:
            self.asked[key].cancelled = True
        self.driver.scheduler.cancel(key)
        self.driver.collect()

    def disconnect(self, owner: int) -> None:
        for key, asked in self.asked.items():
            if asked.owner == owner:
                self.cancel(key)

    def check(self) -> None:
        """What holds at any time."""
        scheduler, policy = self.driver.scheduler, self.setting.policy
        assert self.engine.slots - scheduler.free_slots == scheduler.running
        assert 0 <= scheduler.saved_bytes <= policy.preempt_host_bytes
        for key, asked in self.asked.items():
            got = _drawn(self.driver, key)
            expected = asked.solo[: len(got)]
            if policy.prefix is PrefixMode.FAST:
                assert [token for token, _ in got] == [token for token, _ in expected]
            else:
                assert got == expected

    def finish(self) -> None:
        """Run to the end: everybody gets all that is due, nothing is left behind."""
        self.driver.run()
        self.check()
        scheduler = self.driver.scheduler
        assert (scheduler.free_slots, scheduler.saved_bytes) == (self.engine.slots, 0)
        if self.driver.report is not None:
            assert (self.driver.report.running, self.driver.report.kv_tokens) == (0, 0)
        lengths = [self.engine.length(slot) for slot in range(self.engine.slots)]
        if self.setting.policy.prefix is PrefixMode.OFF or not self.setting.chunk:
            assert lengths == [0] * self.engine.slots
        elif self.setting.policy.prefix is PrefixMode.EXACT:
            assert all(length % self.setting.chunk == 0 for length in lengths)
        for key, asked in self.asked.items():
            self._check_end(key, asked)

    def _check_end(self, key: int, asked: Asked) -> None:
        finish, got = self.driver.finish(key), _drawn(self.driver, key)
        if asked.cancelled:
            assert finish is Finish.CANCELLED
        elif finish is Finish.DEADLINE:
            assert asked.deadline_s is not None
            assert asked.deadline_s <= self.driver.now_s
        else:
            assert len(got) == len(asked.solo)
            assert finish is (Finish.STOP if asked.stops else Finish.LENGTH)

    def _prompt(self, want: Want) -> list[int]:
        start = PREFIXES[want.prefix % len(PREFIXES)]
        if want.prefix >= len(PREFIXES) and self.asked:
            start = self.asked[want.prefix % len(self.asked) + 1].all_ids
        return [*start[: min(want.shared, CONTEXT - 10)], *want.rest]

    def _engine(self, *, slots: int, rows: int) -> FakeEngine:
        return FakeEngine(
            slots=slots,
            decode_rows=rows,
            context_length=CONTEXT,
            chunk_tokens=self.setting.chunk or CONTEXT - 1,
            vocab_size=VOCAB,
            history=self.setting.chunk > 0,
            decode_variants=_variants(slots) if 1 < slots == rows else (),
        )


def _variants(slots: int) -> tuple[tuple[int, int], ...]:
    """As of a batched bmodel: the scheduler moves rows so that small ones will do."""
    ladder = {1, (slots + 1) // 2, slots}
    return tuple((rows, length) for rows in ladder for length in (CONTEXT // 3, CONTEXT))


def _drawn(driver: Driver, key: int) -> list[tuple[int, int]]:
    """Token and bits of each emission."""
    found = []
    for emission in driver.emissions:
        if emission.key == key:
            for sampled in emission.logprobs:
                assert isinstance(sampled, FakeSampled)
                found.append((sampled.token, sampled.bits))
    return found
