"""The decode net of one transformer layer for several slots (runs in the compiler's environment).

Weights are read once for all rows; attention runs slot by slot, each over its own KV tensors,
because a concat of [slots, length, …] tensors would copy the whole history in every step. The
concat of a slot's history and its new row is `only_merge`: the compiler places the new row right
behind the history, so that nothing is copied.

Inputs   input_states [rows, 1, hidden], position_ids [rows, 1] int32,
         attention_mask [rows, 1, 1, length + 1],
         then per slot history_k_<j>, history_v_<j> [1, length, kv_heads, head_dim].
Outputs  output_states [rows, 1, hidden],
         then per slot k_cache_<j>, v_cache_<j> [1, 1, kv_heads, head_dim].

All variants of a net list the same tensors, since they share one set of addresses; a slot that a
variant does not compute returns row 0 of its history.
"""

from typing import Any

from llm.LlmInfo import LlmList  # type: ignore[import-not-found]
from mlir.dialects import top  # type: ignore[import-not-found]

from compiler.batched.ladder import Variant
from compiler.batched.layer import LayerParts, Value


class DecodeNet(LayerParts):
    """Builds `block_cache_<layer>` for one variant, with the converter's linear and norm."""

    def __init__(self, converter: Any, layer: int, variant: Variant, slots: int) -> None:
        rows, length = variant.rows, variant.length_tokens
        super().__init__(converter, layer, [rows, 1, converter.hidden_size])
        self._variant = variant
        self._slots = slots
        self._row = [1, 1, converter.num_key_value_heads, converter.head_dim]
        history = [1, length, converter.num_key_value_heads, converter.head_dim]
        self._open(
            f"block_cache_{layer}",
            [self._states, [rows, 1], [rows, 1, 1, length + 1], *[history] * (2 * slots)],
            [self._states, *[self._row] * (2 * slots)],
        )

    def build(self) -> Any:
        """The finished module; the converter's `save_mlir_module` writes it."""
        states = self._input("input_states", 0)
        positions = self._input("position_ids", 1)
        mask = self._input("attention_mask", 2)
        histories = [
            (self._input(f"history_k_{j}", 3 + 2 * j), self._input(f"history_v_{j}", 4 + 2 * j))
            for j in range(self._slots)
        ]
        attended, new_rows = self._attention(states, positions, mask, histories)
        states = self._add(states, attended, self._path(LlmList.O_PROJ) + ".add")
        states = self._mlp(states)
        self._mlir.create_return_op([states, *new_rows])
        return self._mlir

    def _attention(
        self, states: Value, positions: Value, mask: Value, histories: list[tuple[Value, Value]]
    ) -> tuple[Value, list[Value]]:
        query, key, value = self._projections(states, positions)
        # The prefill nets of this layer may hold a mask among their weights; naming it here keeps
        # the layout of the weights equal, which is what lets the nets share them.
        self._converter.create_decode_mask_placeholder(self._mlir)
        outputs: list[Value] = []
        new_rows: list[Value] = []
        for slot, (history_k, history_v) in enumerate(histories):
            if slot >= self._variant.rows:
                new_rows.append(self._slice(history_k, 1, 0, self._row, f"k_cache_{slot}"))
                new_rows.append(self._slice(history_v, 1, 0, self._row, f"v_cache_{slot}"))
                continue
            new_k = self._take_row(key, slot, f"k_cache_{slot}")
            new_v = self._take_row(value, slot, f"v_cache_{slot}")
            new_rows += [new_k, new_v]
            keys = self._merge(history_k, new_k, f"keys_{slot}")
            values = self._merge(history_v, new_v, f"values_{slot}")
            slot_query = self._take_row(query, slot, f"query_{slot}")
            slot_mask = self._take_row(mask, slot, f"mask_{slot}")
            outputs.append(self._attend(slot_query, keys, values, slot_mask, f"attention_{slot}"))
        merged = outputs[0] if len(outputs) == 1 else self._stack(outputs)
        width = self._converter.num_attention_heads * self._converter.head_dim
        projected = self._linear(LlmList.O_PROJ, merged, width, self._converter.hidden_size)
        return projected, new_rows

    def _row_name(self, tensor: str) -> str:
        # With one row there is no slice between the projection and the output that bears the name.
        return f"{tensor}_0" if self._variant.rows == 1 else f"{tensor}_rows"

    def _take_row(self, states: Value, row: int, name: str) -> Value:
        """Row `row` of a [rows, …] tensor as [1, …]; the tensor itself when there is one row."""
        shape = [int(size) for size in states.type.shape]
        if shape[0] == 1:
            return states
        return self._slice(states, 0, row, [1, *shape[1:]], name)

    def _slice(self, states: Value, axis: int, start: int, shape: list[int], name: str) -> Value:
        offset = [0] * len(shape)
        offset[axis] = start
        none = self._mlir.none_op
        return top.SliceOp(
            self._type(shape),
            states,
            none,
            none,
            none,
            offset=offset,
            steps=[1] * len(shape),
            ends=[begin + size for begin, size in zip(offset, shape, strict=True)],
            axes=[],
            **self._at(name),
        ).output

    def _stack(self, rows: list[Value]) -> Value:
        out = self._type([len(rows), *list(rows[0].type.shape)[1:]])
        return top.ConcatOp(out, rows, axis=0, **self._at("attention_rows")).output
