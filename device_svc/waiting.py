"""Who waits for a slot, and whose turn it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from device_svc.request import Request
from device_svc.resident import Resident

# Waiting as long raises a request by one priority class, so that no class starves.
AGE_S: Final = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class Waiter:
    """since_s: when it began to wait, less what it had waited before. preempted: its state when it
    has run already; its rows are saved.
    """

    request: Request
    since_s: float
    preempted: Resident | None = None

    def rank(self, now_s: float) -> int:
        """The priority class, raised by age."""
        return self.request.priority + int((now_s - self.since_s) / AGE_S)


class WaitingRoom:
    """First come, first served inside a priority class; preempted ones were there first."""

    def __init__(self) -> None:
        self._queues: dict[int, dict[int, Waiter]] = {}

    def __bool__(self) -> bool:
        return any(self._queues.values())

    def __iter__(self) -> Iterator[Waiter]:
        for queue in self._queues.values():
            yield from queue.values()

    def add(self, waiter: Waiter) -> None:
        request = waiter.request
        queue = self._queues.get(request.priority, {})
        if waiter.preempted is None:
            queue[request.key] = waiter
        else:
            queue = {request.key: waiter, **queue}
        self._queues[request.priority] = queue

    def pop(self, key: int) -> Waiter | None:
        for queue in self._queues.values():
            waiter = queue.pop(key, None)
            if waiter is not None:
                return waiter
        return None

    def first(self, now_s: float) -> Waiter | None:
        """Highest in rank, then longest in waiting."""
        return max(self._heads(), key=lambda w: (w.rank(now_s), -w.since_s), default=None)

    def highest(self) -> Waiter | None:
        """The first of the highest class, whatever the age of others."""
        return max(self._heads(), key=lambda w: w.request.priority, default=None)

    def _heads(self) -> list[Waiter]:
        return [next(iter(queue.values())) for queue in self._queues.values() if queue]
