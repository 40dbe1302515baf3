"""When a prefill chunk may go before the tokens that running requests wait for.

Chunk borders never move with the load: they would change the last bits of a request's KV. What
moves is when a chunk runs.
"""

from __future__ import annotations

from typing import Final

_WEIGHT: Final = 0.25


class MovingAverage:
    """Exponential, of durations in seconds; 0 before the first one."""

    __slots__ = ("value_s",)

    def __init__(self) -> None:
        self.value_s = 0.0

    def add(self, sample_s: float) -> None:
        self.value_s += _WEIGHT * (sample_s - self.value_s) if self.value_s else sample_s


class Pacer:
    """Keeps the gap between two tokens of a running request within `itl_budget_s`, by estimate.

    A budget below one chunk cannot be kept: then each running request gets one token between two
    chunks, so that prompts are not starved.
    """

    def __init__(self, itl_budget_s: float) -> None:
        self._budget_s = itl_budget_s
        self._chunk = MovingAverage()
        self._decode = MovingAverage()
        self._rows_since_chunk = 0
        # Of all steps so far; read by other threads.
        self.longest_step_s = 0.0

    def chunk_may_run(self, now_s: float, *, oldest_token_s: float, decoding: int) -> bool:
        """oldest_token_s: when the request that is next to decode got its last token."""
        gap_s = now_s - oldest_token_s + self._chunk.value_s + self._decode.value_s
        return gap_s <= self._budget_s or self._rows_since_chunk >= decoding

    def chunk_ran(self, elapsed_s: float) -> None:
        self._chunk.add(elapsed_s)
        self.longest_step_s = max(self.longest_step_s, elapsed_s)
        self._rows_since_chunk = 0

    def decode_ran(self, elapsed_s: float, *, rows: int) -> None:
        self._decode.add(elapsed_s)
        self.longest_step_s = max(self.longest_step_s, elapsed_s)
        self._rows_since_chunk += rows
