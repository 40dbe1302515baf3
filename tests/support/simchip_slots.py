"""A small engine for batched decode nets over the C functions of a simulated chip.

It follows the contract of batched bmodels by itself, so that the nets can be tested without
tpuserve's core, and broken on purpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from tests.support.simchip_abi import SUCCESS, Argument, Handle, Variant

HIDDEN: Final = np.float16(-10000)


@dataclass
class Slots:
    """Sequences in slots 0 to N - 1; `ids` is what each holds."""

    handle: Handle
    bmodel: Path
    layers: int
    ids: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.runtime = self.handle.runtime(self.bmodel)
        self.nets = {
            name: self.runtime.variants(name)
            for name in ("embedding_cache", "lm_head", *map(self.net, range(self.layers)))
        }
        for layer in range(self.layers):
            for tensor in self.nets[self.net(layer)][0].inputs[3:]:
                # Not the rows of scratch behind them: those are written before they are read.
                self.handle.fill(tensor.address, tensor.size)

    @staticmethod
    def net(layer: int) -> str:
        return f"block_cache_{layer}"

    def variant(self, rows: int, length: int) -> int:
        """Index of the smallest that serves so many rows and such a length.

        length: 0 for that of the longest slot below the variant's rows, decoding or not.
        """
        fitting = []
        for index, variant in enumerate(self.nets[self.net(0)]):
            found, capacity = variant.inputs[0].dims[0], variant.inputs[3].dims[1]
            longest = max(len(self.ids.get(slot, [])) for slot in range(found))
            if found >= rows and capacity >= (length or longest):
                fitting.append((found, capacity, index))
        return min(fitting)[2]

    def rows_variant(self, net: str, rows: int) -> Variant:
        return next(v for v in self.nets[net] if v.inputs[0].dims[0] == rows)

    def masks(self, rows: int, length: int) -> np.ndarray[tuple[int, int], np.dtype[np.float16]]:
        """Row r sees what slot r holds and, last, itself."""
        mask = np.full((rows, length + 1), HIDDEN)
        mask[:, -1] = 0
        return mask

    def step(
        self,
        tokens: dict[int, int],
        *,
        mask_change: tuple[int, int] | None = None,
        row_shift: int = 0,
        length: int = 0,
    ) -> dict[int, int]:
        """Appends tokens[slot] to each slot; the tokens that follow.

        mask_change: an element (row, column) to turn over. row_shift: added to where K of the last
        layer goes. length: take a variant for this length, whatever the slots hold.
        """
        index = self.variant(max(tokens) + 1, length)
        first = self.nets[self.net(0)][index]
        rows, length = first.inputs[0].dims[0], first.inputs[3].dims[1]
        self._embed(tokens, rows, first.inputs[0])
        positions = np.zeros(rows, np.int32)
        mask = self.masks(rows, length)
        for slot in tokens:
            positions[slot] = len(self.ids.get(slot, []))
            mask[slot, : positions[slot]] = 0
        if mask_change is not None:
            mask[mask_change] = HIDDEN if mask[mask_change] == 0 else 0
        assert self.handle.upload(first.inputs[1].address, positions) == SUCCESS
        assert self.handle.upload(first.inputs[2].address, mask) == SUCCESS
        states = first.inputs[0]
        for layer in range(self.layers):
            variant = self.nets[self.net(layer)][index]
            shift = row_shift if layer == self.layers - 1 else 0
            outputs = self._outputs(variant, tokens, positions, shift)
            inputs = [states, *first.inputs[1:3], *variant.inputs[3:]]
            assert self.runtime.launch(self.net(layer), inputs, outputs)
            states = variant.outputs[0]
        for slot, token in tokens.items():
            self.ids.setdefault(slot, []).append(token)
        return self._head(states, rows, tokens)

    def run(self, slot: int, prompt: Sequence[int], count: int) -> list[int]:
        """Feeds a prompt token by token, then `count - 1` of what follows; the completion."""
        for token in prompt[:-1]:
            self.step({slot: token})
        out = [self.step({slot: prompt[-1]})[slot]]
        while len(out) < count:
            out.append(self.step({slot: out[-1]})[slot])
        return out

    def _embed(self, tokens: dict[int, int], rows: int, states: Argument) -> None:
        variant = self.rows_variant("embedding_cache", rows)
        ids = np.array([tokens.get(slot, 0) for slot in range(rows)], np.int32)
        assert self.handle.upload(variant.inputs[0].address, ids) == SUCCESS
        out = variant.outputs[0].at(states.address)
        assert self.runtime.launch("embedding_cache", variant.inputs, [out])

    @staticmethod
    def _outputs(
        variant: Variant,
        tokens: dict[int, int],
        positions: np.ndarray[tuple[int], np.dtype[np.int32]],
        shift: int,
    ) -> list[Argument]:
        """New rows go straight to their place; those of idle slots stay where they are."""
        outputs = list(variant.outputs)
        for slot in tokens:
            for kind in (1, 2):
                tensor = variant.inputs[2 * slot + 2 + kind]
                row_bytes = tensor.size // tensor.dims[1]
                row = int(positions[slot]) + (shift if kind == 1 else 0)
                at = 2 * slot + kind
                outputs[at] = outputs[at].at(tensor.address + row * row_bytes)
        return outputs

    def _head(self, states: Argument, rows: int, tokens: dict[int, int]) -> dict[int, int]:
        variant = self.rows_variant("lm_head", rows)
        hidden = variant.inputs[0].at(states.address)
        assert self.runtime.launch("lm_head", [hidden], variant.outputs)
        assert self.handle.sync() == SUCCESS
        out = variant.outputs[0]
        status, logits = self.handle.download(out.address, out.size // 4, "float32")
        assert status == SUCCESS
        best = logits.reshape(rows, -1).argmax(axis=1)
        return {slot: int(best[slot]) for slot in tokens}
