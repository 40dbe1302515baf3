"""Which shape variants (rows × length) a batched decode net gets."""

from dataclasses import dataclass


@dataclass(frozen=True, order=True, slots=True)
class Variant:
    """One compiled shape of the decode net.

    rows: slots 0 … rows - 1 compute; the rest keep their KV untouched below row `length_tokens`.
    length_tokens: KV rows that each computing slot attends to, besides the new one.
    """

    rows: int
    length_tokens: int


def ladder(slots: int, seq_tokens: int, shortest_tokens: int = 0) -> tuple[Variant, ...]:
    """Variants for `slots` slots of `seq_tokens` KV rows, largest first.

    Rows fall by halves to 1. Lengths fall by halves to `shortest_tokens`; 0 gives `seq_tokens`
    alone. The first variant sets the addresses that all others share, so it must be the largest.
    Raises ValueError when a number is out of range.
    """
    if slots < 1:
        raise ValueError(f"slots is {slots}, must be positive")
    if seq_tokens < 1:
        raise ValueError(f"seq is {seq_tokens}, must be positive")
    if not 0 <= shortest_tokens <= seq_tokens:
        raise ValueError(f"shortest length is {shortest_tokens}, must be 0 to {seq_tokens}")
    lengths = _halves(seq_tokens, shortest_tokens or seq_tokens)
    return tuple(Variant(rows, length) for rows in _halves(slots, 1) for length in lengths)


def _halves(largest: int, smallest: int) -> list[int]:
    """largest, then its halves rounded up to no less than `smallest`, which is included."""
    values = [largest]
    while values[-1] > smallest:
        values.append(max(smallest, values[-1] // 2))
    return values
