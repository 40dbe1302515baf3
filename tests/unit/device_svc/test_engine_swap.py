"""Exchanges of engines: which are open, and in what order, whatever fails."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from device_svc.engine_api import Engine, EngineStartError, OpenEngine
from device_svc.engine_swap import Exchange, Exchanged, ModelEngine, exchange
from device_svc.prefix_cache import PrefixMode
from device_svc.scheduler import Policy, Scheduler
from tests.support.fake_core import FakeEngine
from tests.support.stepping import Driver

PROMPT = [*range(40)]


@dataclass
class Bench:
    """Opens engines by name, or fails to, and remembers the order of events."""

    fails: tuple[str, ...] = ()
    events: list[str] = field(default_factory=list)
    opened: dict[str, FakeEngine] = field(default_factory=dict)

    def model(self, name: str, scratch_bytes: int) -> ModelEngine:
        return ModelEngine(
            open=lambda: self._open(name),
            open_again=lambda: self._open(f"{name} again"),
            scratch_bytes=(scratch_bytes,),
        )

    def start(self, open_engine: OpenEngine) -> tuple[Engine, Scheduler]:
        engine = open_engine()
        assert isinstance(engine, FakeEngine)
        return engine, Driver(engine, policy=Policy(PrefixMode.EXACT)).scheduler

    def _open(self, name: str) -> FakeEngine:
        if name in self.fails:
            self.events.append(f"{name} fails")
            raise EngineStartError(f"{name} does not load")
        self.events.append(name)
        engine = self.opened[name] = _Noted(name, self.events)
        return engine


class _Noted(FakeEngine):
    def __init__(self, name: str, events: list[str]) -> None:
        super().__init__(slots=2, chunk_tokens=16)
        self._name, self._events = name, events

    def close(self) -> None:
        if not self.closed:
            self._events.append(f"-{self._name}")
        super().close()


def run(
    *fails: str, alongside: bool, scratch: tuple[int, int] = (1, 1), keep_rows: bool = True
) -> tuple[Bench, Exchanged, Scheduler]:
    """From an old engine that holds the rows of a prompt; scratch: of old and new."""
    bench = Bench(fails)
    old = _Noted("old", bench.events)
    driver = Driver(old)
    driver.submit(1, PROMPT)
    driver.run()
    asked = Exchange(
        bench.model("old", scratch[0]), bench.model("new", scratch[1]), alongside, keep_rows
    )
    scheduler, outcome = exchange(asked, old, driver.scheduler, bench.start)
    assert [e for e in (old, *bench.opened.values()) if not e.closed] == [outcome.engine]
    return bench, outcome, scheduler


@pytest.mark.parametrize(
    ("alongside", "scratch", "events"),
    [
        (True, (1, 1), ["new", "-old"]),
        (True, (1, 2), ["new", "-old"]),
        # Unloading the larger one moves what the smaller one uses.
        (True, (2, 1), ["new", "-old", "new again", "-new"]),
        (False, (1, 2), ["-old", "new"]),
    ],
)
@pytest.mark.parametrize("keep_rows", [True, False])
def test_a_change(
    alongside: bool, scratch: tuple[int, int], events: list[str], keep_rows: bool
) -> None:
    bench, outcome, scheduler = run(alongside=alongside, scratch=scratch, keep_rows=keep_rows)
    assert bench.events == events
    assert outcome.error is None
    assert outcome.kept_tokens == (32 if keep_rows else 0)
    assert [list(kept.ids) for kept in scheduler.kept_prefixes] == [PROMPT[:32]] * keep_rows


@pytest.mark.parametrize(
    ("alongside", "scratch", "events"),
    [
        (True, (1, 1), ["new fails"]),
        (True, (2, 1), ["new fails"]),
        # Loading has moved what the old engine used.
        (True, (1, 2), ["new fails", "old again", "-old"]),
        (False, (1, 1), ["-old", "new fails", "old"]),
    ],
)
@pytest.mark.parametrize("keep_rows", [True, False])
def test_a_new_model_that_does_not_load_leaves_the_old_one(
    alongside: bool, scratch: tuple[int, int], events: list[str], keep_rows: bool
) -> None:
    bench, outcome, scheduler = run(
        "new", alongside=alongside, scratch=scratch, keep_rows=keep_rows
    )
    assert bench.events == events
    assert str(outcome.error) == "new does not load"
    # Its rows are its own, whatever the new model would have made of them.
    assert [list(kept.ids) for kept in scheduler.kept_prefixes] == [PROMPT[:32]]


@pytest.mark.parametrize(
    ("fails", "alongside", "scratch"),
    [
        (("new", "old"), False, (1, 1)),
        (("new again",), True, (2, 1)),
        (("new", "old again"), True, (1, 2)),
    ],
)
def test_when_nothing_loads_nothing_stays_open(
    fails: tuple[str, ...], alongside: bool, scratch: tuple[int, int]
) -> None:
    bench = Bench(fails)
    old = _Noted("old", bench.events)
    models = bench.model("old", scratch[0]), bench.model("new", scratch[1])
    asked = Exchange(*models, alongside=alongside, keep_rows=True)
    with pytest.raises(EngineStartError, match="does not load"):
        exchange(asked, old, Driver(old).scheduler, bench.start)
    assert all(engine.closed for engine in (old, *bench.opened.values()))


def test_steps_go_on_counting() -> None:
    _, _, scheduler = run(alongside=True)
    engine = FakeEngine()
    first = Driver(engine)
    first.submit(1, PROMPT, max_tokens=3)
    first.run()
    assert first.report is not None
    scheduler.continue_after(first.scheduler)
    assert scheduler.take_report() is None
    ahead = Driver(FakeEngine())
    ahead.scheduler.continue_after(first.scheduler)
    ahead.submit(2, [1], max_tokens=1)
    ahead.run()
    assert ahead.report is not None
    assert ahead.report.step == first.report.step + 1


def test_what_was_used_last_is_kept_where_slots_are_fewer() -> None:
    old = FakeEngine(slots=4, chunk_tokens=16)
    driver = Driver(old)
    for key in range(4):
        driver.submit(key, [*range(100 * key, 100 * key + 40)])
        driver.run()
    model = ModelEngine(lambda: FakeEngine(slots=2, chunk_tokens=16), _never, (1,))
    asked = Exchange(model, model, alongside=True, keep_rows=True)
    scheduler, outcome = exchange(asked, old, driver.scheduler, Bench().start)
    assert outcome.kept_tokens == 64
    assert [kept.ids[0] for kept in scheduler.kept_prefixes] == [300, 200]


def _never() -> Engine:
    raise AssertionError
