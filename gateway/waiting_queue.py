"""Completions of one model that wait for a device: higher classes first, first come within one.

Tenants will share inside a class; that policy belongs here and nowhere else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gateway.request import Priority

if TYPE_CHECKING:
    from gateway.sequence import Sequence


class WaitingQueue:
    """Order only; limits are the dispatcher's. Removal from the middle is O(1)."""

    def __init__(self) -> None:
        self._classes: dict[Priority, OrderedDict[str, Sequence]] = {
            priority: OrderedDict() for priority in sorted(Priority, reverse=True)
        }

    def __len__(self) -> int:
        return sum(map(len, self._classes.values()))

    def __iter__(self) -> Iterator[Sequence]:
        for waiting in self._classes.values():
            yield from waiting.values()

    def push(self, sequence: Sequence) -> None:
        self._classes[sequence.plan.priority][sequence.id] = sequence

    def push_front(self, sequence: Sequence) -> None:
        """For one that had its turn and was sent back."""
        waiting = self._classes[sequence.plan.priority]
        waiting[sequence.id] = sequence
        waiting.move_to_end(sequence.id, last=False)

    def peek(self) -> Sequence | None:
        return next(iter(self), None)

    def remove(self, sequence: Sequence) -> None:
        """Nothing happens when it does not wait here."""
        self._classes[sequence.plan.priority].pop(sequence.id, None)
