"""Whether a device that has work says nothing for too long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

# Silence of so many of its longest steps is no step any more: a working device sends a frame after
# each, or twice a second if steps are shorter and have nothing to tell.
_STEPS: Final = 8


class Silence:
    """Pure; the clock is given. `timeout_s` is the least time that counts as silence."""

    def __init__(self, timeout_s: float, clock: Callable[[], float]) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._since_s = clock()
        self._longest_step_s = 0.0
        self._checked_s = clock()

    @property
    def limit_s(self) -> float:
        return max(self._timeout_s, _STEPS * self._longest_step_s)

    @property
    def check_every_s(self) -> float:
        return self.limit_s / 4

    def heard(self) -> None:
        """It said something, or just now got work."""
        self._since_s = self._clock()

    def learn(self, longest_step_s: float) -> None:
        self._longest_step_s = max(self._longest_step_s, longest_step_s)

    def too_long(self, *, busy: bool) -> bool:
        """To be asked every `check_every_s`.

        A check that comes late tells that this process was held up itself, and that what the
        device said in the meantime may not have been read: the time begins again.
        """
        now_s = self._clock()
        late_s = now_s - self._checked_s - self.check_every_s
        self._checked_s = now_s
        if not busy or late_s > self.check_every_s:
            self._since_s = now_s
            return False
        return now_s - self._since_s > self.limit_s
