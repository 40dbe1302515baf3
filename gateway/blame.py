"""Which of the requests that a device was lost with may have been its death.

Tokens are a function of prompt, parameters and seed, so a request that ends a process at one of its
steps ends the next process at the same step, before it got one token there. It must not go round.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.sequence import Sequence

# A request on which two devices were lost, the last one by its doing, ends.
_DEVICES: Final = 2
# However little it seems to blame.
_MOST_DEVICES: Final = 4


def suspect(orphans: Iterable[Sequence]) -> Sequence | None:
    """The one, if any, that the loss points to.

    Those without a new token there are nearest: of these the one that had the fewest tokens to
    replay, whose new step came first. Else a single request is to blame, and several are not.
    """
    seated = [sequence for sequence in orphans if sequence.seated]
    stuck = [sequence for sequence in seated if not sequence.moved]
    if stuck:
        return min(stuck, key=lambda sequence: len(sequence.ids))
    return seated[0] if len(seated) == 1 else None


def given_up(sequence: Sequence, accused: Sequence | None) -> bool:
    """Whether it has cost enough devices; `losses` counts the last one already."""
    if sequence is accused:
        return sequence.losses >= _DEVICES
    return sequence.losses > _MOST_DEVICES
