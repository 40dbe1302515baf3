"""How far the tensors of two dumps are apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one tensor. cos: of all of it; lowest_cos: of the row (token) where it is lowest.
    max_abs: largest difference of two numbers. first_row: the first that is not equal bit for bit,
    None when all are.
    """

    name: str
    shape: tuple[int, ...]
    cos: float
    lowest_cos: float
    max_abs: float
    first_row: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """differences: of the tensors in both, in the first file's order. problems: why they cannot
    agree, whatever the cosines are.
    """

    differences: tuple[Difference, ...]
    problems: tuple[str, ...]

    @property
    def first_differing(self) -> Difference | None:
        return next((each for each in self.differences if each.first_row is not None), None)

    def agrees(self, min_cos: float) -> bool:
        """Whether everything could be compared and no row of no tensor is below `min_cos`."""
        return not self.problems and all(each.lowest_cos >= min_cos for each in self.differences)


def compare(a: Mapping[str, Array], b: Mapping[str, Array]) -> Report:
    problems = [f"{name} is in one file only" for name in {**a, **b} if (name in a) != (name in b)]
    differences = []
    for name in a:
        if name not in b:
            continue
        if a[name].shape != b[name].shape:
            problems.append(f"{name} has the shapes {a[name].shape} and {b[name].shape}")
        elif not _is_real(a[name]) or not _is_real(b[name]):
            problems.append(f"{name} holds no real numbers")
        else:
            difference = _difference(name, a[name], b[name])
            differences.append(difference)
            if _is_integer(a[name]) and difference.first_row is not None:
                problems.append(f"{name} are not the same: other tokens were computed")
    if not a and not b:
        problems.append("both files are empty")
    return Report(tuple(differences), tuple(problems))


def _is_real(array: Array) -> bool:
    return _is_integer(array) or bool(np.issubdtype(array.dtype, np.floating))


def _is_integer(array: Array) -> bool:
    return bool(np.issubdtype(array.dtype, np.integer))


def _difference(name: str, a: Array, b: Array) -> Difference:
    # One row per token; a single row where there is no axis for them.
    rows = len(a) if a.ndim > 1 else 1
    x = a.reshape(rows, -1).astype(np.float64) if a.size else np.zeros((1, 1))
    y = b.reshape(rows, -1).astype(np.float64) if b.size else np.zeros((1, 1))
    unequal = np.flatnonzero(np.any(x != y, axis=1))
    return Difference(
        name=name,
        shape=a.shape,
        cos=float(_cosines(x.reshape(1, -1), y.reshape(1, -1))[0]),
        lowest_cos=float(_cosines(x, y).min()),
        max_abs=float(np.max(np.abs(x - y))),
        first_row=int(unequal[0]) if len(unequal) else None,
    )


def _cosines(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each pair of rows; 1 for two rows of zeros, 0 where one is, or where one is no number."""
    products = np.sqrt(np.sum(x * x, axis=1) * np.sum(y * y, axis=1))
    equal = np.all(x == y, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = np.sum(x * y, axis=1) / products
    return np.where(equal, 1.0, np.nan_to_num(cosines, nan=0.0, posinf=0.0, neginf=0.0))
