"""A row of the table: what is built, and what came out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# The least cosine to the reference: of the same weights, and with 4 bits of weights so rounded.
_LEAST: Final = {"w4f16": 0.99, "w4bf16": 0.99, "bf16": 0.999, "w8bf16": 0.999}
_LEAST_OTHERS: Final = 0.999


@dataclass(frozen=True, slots=True)
class Measured:
    """cosine: the smallest of all logits rows; None where the head returns tokens only. agreeing:
    of `positions`, those where the best token is the reference's. answers: what went through the
    services, and how many of its tokens were the reference's. problems: what must not be.
    """

    cosine: float | None
    agreeing: int
    positions: int
    answers: str = ""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """`measure` works in an empty directory of its own."""

    model: str
    quantization: str
    features: str
    measure: Callable[[Path], Measured]

    def problems(self, measured: Measured) -> list[str]:
        """Why the row fails; empty when it holds."""
        found = list(measured.problems)
        least = _LEAST.get(self.quantization, _LEAST_OTHERS)
        if measured.cosine is not None and not measured.cosine >= least:
            found.append(f"cosine {measured.cosine:.6f} is below {least}")
        return found

    def cells(self, measured: Measured) -> tuple[str, ...]:
        cosine = "-" if measured.cosine is None else f"{measured.cosine:.6f}"
        agreement = f"{measured.agreeing}/{measured.positions}"
        answers = measured.answers or "-"
        return (self.model, self.quantization, self.features, cosine, agreement, answers)


HEADER: Final = ("model", "weights", "features", "cosine", "best token", "through the services")
