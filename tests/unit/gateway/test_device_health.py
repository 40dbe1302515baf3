"""Circuit breaker and silence, with a clock that the test turns."""

from __future__ import annotations

from gateway.breaker import CircuitBreaker
from gateway.silence import Silence


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_two_failures_open_it_and_each_more_doubles_the_pause() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    assert breaker.failed() == 0
    assert breaker.may_take(5)
    pauses = []
    for _ in range(7):
        pauses.append(breaker.failed())
        assert not breaker.may_take(0)
        clock.now_s += pauses[-1]
        # Half open: one at a time.
        assert breaker.may_take(0)
        assert not breaker.may_take(1)
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert breaker.served(0, finished=True)
    assert breaker.may_take(5)
    assert breaker.failed() == 0


def test_sixteen_tokens_close_it_too() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    breaker.failed()
    breaker.failed()
    clock.now_s += 1
    assert not breaker.served(15, finished=False)
    assert not breaker.may_take(1)
    assert breaker.served(1, finished=False)
    assert breaker.may_take(1)
    assert not breaker.served(1, finished=True)


def test_silence_is_counted_while_there_is_work() -> None:
    clock = Clock()
    silence = Silence(10, clock)

    def check_after(seconds: float, *, busy: bool = True) -> bool:
        clock.now_s += seconds
        return silence.too_long(busy=busy)

    assert silence.check_every_s == 2.5
    assert not any(check_after(2.5, busy=False) for _ in range(100))
    assert [check_after(2.5) for _ in range(5)] == [False] * 4 + [True]
    silence.heard()
    assert not any(check_after(2.5) for _ in range(4))
    silence.heard()
    assert not check_after(2.5)


def test_long_steps_lengthen_it() -> None:
    clock = Clock()
    silence = Silence(10, clock)
    silence.learn(0.5)
    assert silence.limit_s == 10
    silence.learn(3.0)
    silence.learn(1.0)
    assert silence.limit_s == 24


def test_who_was_held_up_itself_accuses_nobody() -> None:
    clock = Clock()
    silence = Silence(10, clock)
    clock.now_s += 60
    assert not silence.too_long(busy=True)
    for _ in range(4):
        clock.now_s += 2.5
        assert not silence.too_long(busy=True)
    clock.now_s += 2.5
    assert silence.too_long(busy=True)
