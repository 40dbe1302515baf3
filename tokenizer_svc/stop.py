"""Stop texts: found across token borders, with no more text held back than could begin one.

The text is read character by character; the first character that completes a stop text ends the
answer. When it completes several at once the longest one counts, and among equal ones the first
listed. The outcome therefore does not depend on how the text is cut into pushes, which "the
leftmost match" would: of the stops "bcd" and "c", the text "abc" already shows "c", before
anybody can know whether "bcd" would follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopResult:
    """`text` is safe to show; `stop_index` is set when a stop text was completed."""

    text: str
    stop_index: int | None = None


class StopFinder:
    """Matches all stop texts at once, one Knuth-Morris-Pratt automaton each.

    `stops` are not empty; their index in the result is their index here.
    """

    __slots__ = ("_automata", "_first_characters", "_held")

    def __init__(self, stops: Sequence[str]) -> None:
        # Longest first, so that the longest of several that end together is found first.
        order = sorted(range(len(stops)), key=lambda index: -len(stops[index]))
        self._automata = [_Automaton(stops[index], index) for index in order]
        self._first_characters = frozenset(stop[0] for stop in stops)
        # The longest end of the text so far that begins a stop text.
        self._held = ""

    def push(self, text: str) -> StopResult:
        """Text to show; after a stop text was met the finder is of no use."""
        if not self._held and self._first_characters.isdisjoint(text):
            return StopResult(text)
        seen = self._held + text
        for position, character in enumerate(text, start=len(self._held) + 1):
            for automaton in self._automata:
                if automaton.advance(character):
                    start = position - len(automaton.stop)
                    return StopResult(seen[:start], automaton.index)
        held = max(automaton.matched for automaton in self._automata)
        self._held = seen[len(seen) - held :]
        return StopResult(seen[: len(seen) - held])

    def finish(self) -> str:
        """The held text: no stop text came of it."""
        held, self._held = self._held, ""
        return held


class _Automaton:
    """Follows one stop text: `matched` characters of it end the text so far."""

    __slots__ = ("_fallback", "index", "matched", "stop")

    def __init__(self, stop: str, index: int) -> None:
        self.stop = stop
        self.index = index
        self.matched = 0
        # _fallback[n]: the longest proper prefix of stop[:n + 1] that also ends it.
        self._fallback = [0] * len(stop)
        length = 0
        for position in range(1, len(stop)):
            while length and stop[position] != stop[length]:
                length = self._fallback[length - 1]
            if stop[position] == stop[length]:
                length += 1
            self._fallback[position] = length

    def advance(self, character: str) -> bool:
        """Reads one character; whether it completes the stop text."""
        matched = self.matched
        while matched and self.stop[matched] != character:
            matched = self._fallback[matched - 1]
        if self.stop[matched] == character:
            matched += 1
        self.matched = matched
        return matched == len(self.stop)
