"""What one request's layers compute, as bytes in the chip's element type."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True, eq=False)
class Recorder:
    """layers: ascending. hidden: uint8 [layers, tokens of a step, bytes], a step each. kv_rows:
    uint8 [layers, 2 (K, V), tokens, bytes], None before the last step.
    """

    layers: tuple[int, ...]
    with_hidden: bool
    with_kv: bool
    hidden: list[NDArray[np.uint8]] = field(default_factory=list)
    kv_rows: NDArray[np.uint8] | None = None

    def hidden_of(self, index: int) -> NDArray[np.uint8]:
        """Of the index-th of the layers, uint8 [tokens, bytes]."""
        return np.concatenate([step[index] for step in self.hidden])
