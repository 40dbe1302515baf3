"""Lists of chips as command lines name them: numbers of the host, such as 2,3."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def chip_list(text: str) -> tuple[int, ...]:
    """A type for argparse."""
    try:
        chips = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 0,1") from error
    if min(chips) < 0 or len(set(chips)) < len(chips):
        raise argparse.ArgumentTypeError(f"{text!r} repeats a chip or has a negative one")
    return chips


def groups(chips: Sequence[int] | None, size: int) -> list[tuple[int, ...]]:
    """Chip groups of `size`, in the order given; one with the lowest numbers for None.

    Raises ValueError when chips are left over.
    """
    if chips is None:
        return [tuple(range(size))]
    if len(chips) % size:
        raise ValueError(
            f"{len(chips)} chips ({','.join(map(str, chips))}) do not make groups of {size}, the "
            "number that the model was compiled for"
        )
    return [tuple(chips[start : start + size]) for start in range(0, len(chips), size)]
