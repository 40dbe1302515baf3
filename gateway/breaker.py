"""A circuit breaker: a device that keeps failing is left alone for a while, longer each time.

closed ── fails twice in a row ──► open ── its time is over ──► half open ──┬── works ──► closed
                                    ▲                                       │
                                    └──────────────── fails ◄───────────────┘
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_FAILURES_TO_OPEN: Final = 2
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
# A device that has served so many tokens since it failed does work, whatever becomes of them.
_TOKENS_TO_CLOSE: Final = 16


class CircuitBreaker:
    """Counts a failure once for all requests that it hits together. Pure; the clock is given."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._tokens = 0
        self._open_until_s = 0.0

    @property
    def failures(self) -> int:
        """In a row."""
        return self._failures

    @property
    def pause_s(self) -> float:
        """How long it stays open from now on; 0 when it is not."""
        return max(0.0, self._open_until_s - self._clock()) if self._failures else 0.0

    def may_take(self, live: int) -> bool:
        """Whether a device with `live` requests gets another; half open, a single one."""
        if self._failures < _FAILURES_TO_OPEN:
            return True
        return live == 0 and not self.pause_s

    def failed(self) -> float:
        """Returns the pause that begins with it, 0 for none."""
        self._failures += 1
        self._tokens = 0
        if self._failures < _FAILURES_TO_OPEN:
            return 0.0
        pause_s = min(
            _LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (self._failures - _FAILURES_TO_OPEN)
        )
        self._open_until_s = self._clock() + pause_s
        return pause_s

    def served(self, tokens: int, *, finished: bool) -> bool:
        """A request got tokens, or ended as it should. Whether this closes the circuit."""
        if not self._failures:
            return False
        self._tokens += tokens
        if not finished and self._tokens < _TOKENS_TO_CLOSE:
            return False
        was_open = self._failures >= _FAILURES_TO_OPEN
        self._failures = self._tokens = 0
        return was_open
