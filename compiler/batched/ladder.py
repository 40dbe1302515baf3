"""Which shape variants (rows × length) a batched decode net gets."""

from collections.abc import Sequence
from dataclasses import dataclass

# Measured with the compiler's cycle model; more slots than that do not fit beside a 7B model.
MAX_SLOTS = 32


@dataclass(frozen=True, order=True, slots=True)
class Variant:
    """One compiled shape of the decode net.

    rows: slots 0 … rows - 1 compute; the rest keep their KV untouched below row `length_tokens`.
    length_tokens: KV rows that each computing slot attends to, besides the new one.
    """

    rows: int
    length_tokens: int


def ladder(slots: int, lengths_tokens: Sequence[int]) -> tuple[Variant, ...]:
    """Variants for `slots` slots in each of the lengths, largest first.

    Rows fall by fours: a step reads all weights whatever the rows, so halves would gain little. The
    first variant sets the addresses that all others share, so it must be the largest. Raises
    ValueError when a number is out of range.
    """
    if not 1 <= slots <= MAX_SLOTS:
        raise ValueError(f"slots is {slots}, must be 1 to {MAX_SLOTS}")
    if not lengths_tokens or min(lengths_tokens) < 1:
        raise ValueError(f"lengths are {list(lengths_tokens)}, must be positive")
    rows = [slots]
    while rows[-1] >= 4:
        rows.append(rows[-1] // 4)
    lengths = sorted(set(lengths_tokens), reverse=True)
    return tuple(Variant(count, length) for count in rows for length in lengths)


def default_lengths(seq_tokens: int, chunk_tokens: int) -> tuple[int, ...]:
    """`seq_tokens` and, with chunks, its half and quarter where these hold a chunk at least.

    Attention reads the whole length of every row, so a step over short texts is cheaper in a short
    variant; below a quarter the weights dominate.
    """
    lengths = [seq_tokens]
    while len(lengths) < 3 and 0 < chunk_tokens <= lengths[-1] // 2:
        lengths.append(lengths[-1] // 2)
    return tuple(lengths)
