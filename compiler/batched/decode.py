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

from llm.LlmInfo import LlmList, LlmType  # type: ignore[import-not-found]
from mlir.dialects import top  # type: ignore[import-not-found]
from mlir.ir import StringAttr  # type: ignore[import-not-found]
from transform.MLIRImporter import MLIRImporter  # type: ignore[import-not-found]

from compiler.batched.ladder import Variant

# A value of the graph under construction; the vendor's bindings carry no types.
Value = Any


class DecodeNet:
    """Builds `block_cache_<layer>` for one variant, with the converter's linear and norm."""

    def __init__(self, converter: Any, layer: int, variant: Variant, slots: int) -> None:
        self._converter = converter
        self._last_layer = layer == converter.num_layers - 1
        self._variant = variant
        self._slots = slots
        names = converter.model_info.weights
        self._prefix = f"{names[LlmList.LAYERS]}.{layer}."
        self._names = names
        rows, length = variant.rows, variant.length_tokens
        self._states = [rows, 1, converter.hidden_size]
        self._row = [1, 1, converter.num_key_value_heads, converter.head_dim]
        history = [1, length, converter.num_key_value_heads, converter.head_dim]
        self._mlir = MLIRImporter(
            [self._states, [rows, 1], [rows, 1, 1, length + 1], *[history] * (2 * slots)],
            [self._states, *[self._row] * (2 * slots)],
            f"block_cache_{layer}",
            converter.platform,
            ["F32", "INT32", "F32", *["F32"] * (2 * slots)],
            weight_file=f"../block_{layer}_top_weights.npz",
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
            outputs.append(self._attend(slot_query, keys, values, slot_mask, slot))
        merged = outputs[0] if len(outputs) == 1 else self._stack(outputs)
        width = self._converter.num_attention_heads * self._converter.head_dim
        projected = self._linear(LlmList.O_PROJ, merged, width, self._converter.hidden_size)
        return projected, new_rows

    def _projections(self, states: Value, positions: Value) -> tuple[Value, Value, Value]:
        """Query, key (both rotated) and value of all rows: [rows, 1, heads, head_dim]."""
        c = self._converter
        normed = c.rms_norm(self._mlir, states, self._path(LlmList.INPUT_LN))
        heads, kv_heads, dim = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        query = self._heads(LlmList.Q_PROJ, normed, heads, "query")
        key = self._heads(LlmList.K_PROJ, normed, kv_heads, "key")
        value = self._heads(LlmList.V_PROJ, normed, kv_heads, self._row_name("v_cache"))
        if c.llm_type == LlmType.QWEN3:
            query = c.rms_norm(self._mlir, query, self._path(LlmList.Q_NORM))
            key = c.rms_norm(self._mlir, key, self._path(LlmList.K_NORM))
        cos, sin = (self._rotary(name, positions, dim) for name in ("rotary_cos", "rotary_sin"))
        query = self._rope(query, sin, cos, "query_rotated")
        key = self._rope(key, sin, cos, self._row_name("k_cache"))
        return query, key, value

    def _row_name(self, tensor: str) -> str:
        # With one row there is no slice between the projection and the output that bears the name.
        return f"{tensor}_0" if self._variant.rows == 1 else f"{tensor}_rows"

    def _heads(self, projection: str, states: Value, heads: int, name: str) -> Value:
        width = heads * self._converter.head_dim
        flat = self._linear(projection, states, self._converter.hidden_size, width)
        shape = [self._variant.rows, 1, heads, self._converter.head_dim]
        return top.ReshapeOp(self._type(shape), flat, **self._at(name)).output

    def _rotary(self, name: str, positions: Value, dim: int) -> Value:
        table = self._mlir.create_weight_op(f"{name}.weight", [self._converter.seq_length, 1, dim])
        out = self._type([self._variant.rows, 1, 1, dim])
        return top.GatherOp(out, table, positions, axis=0, **self._at(name)).output

    def _rope(self, states: Value, sin: Value, cos: Value, name: str) -> Value:
        mode = StringAttr.get("contiguous_halves")
        shape = self._type(list(states.type.shape))
        return top.RopeOp(shape, states, sin, cos, rope_mode=mode, **self._at(name)).output

    def _attend(self, query: Value, keys: Value, values: Value, mask: Value, slot: int) -> Value:
        c = self._converter
        return top.FAttentionOp(
            self._type([1, 1, c.num_attention_heads * c.head_dim]),
            query,
            keys,
            values,
            mask,
            self._mlir.none_op,
            scale=c.head_dim**-0.5,
            batch=1,
            q_head=c.num_attention_heads,
            kv_head=c.num_key_value_heads,
            dim=c.head_dim,
            mq=1,
            mk=self._variant.length_tokens + 1,
            keep_dims=False,
            **self._at(f"attention_{slot}"),
        ).output

    def _mlp(self, states: Value) -> Value:
        c = self._converter
        hidden, inner = c.hidden_size, c.intermediate_size
        normed = c.rms_norm(self._mlir, states, self._path(LlmList.POST_ATTN_LN))
        gate = self._linear(LlmList.MLP_GATE, normed, hidden, inner)
        gate = c.activate(self._mlir, gate, c.hidden_act, self._path(LlmList.MLP_GATE))
        up = self._linear(LlmList.MLP_UP, normed, hidden, inner)
        product_type = self._type([self._variant.rows, 1, inner])
        product = top.MulOp(product_type, [gate, up], **self._at("mlp_product")).output
        down = self._linear(LlmList.MLP_DOWN, product, inner, hidden)
        if not self._last_layer:
            return self._add(states, down, "output_states")
        states = self._add(states, down, "residual")
        return c.rms_norm(self._mlir, states, self._names[LlmList.NORM], "output_states")

    def _linear(self, projection: str, states: Value, width_in: int, width_out: int) -> Value:
        out = [self._variant.rows, 1, width_out]
        path = self._path(projection)
        return self._converter.linear(self._mlir, path, states, [width_in, width_out], out)

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

    def _merge(self, history: Value, new_row: Value, name: str) -> Value:
        shape = list(history.type.shape)
        out = self._type([1, shape[1] + 1, *shape[2:]])
        both = [history, new_row]
        return top.ConcatOp(out, both, axis=1, only_merge=True, **self._at(name)).output

    def _stack(self, rows: list[Value]) -> Value:
        out = self._type([len(rows), *list(rows[0].type.shape)[1:]])
        return top.ConcatOp(out, rows, axis=0, **self._at("attention_rows")).output

    def _add(self, left: Value, right: Value, name: str) -> Value:
        return top.AddOp(self._type(self._states), [left, right], **self._at(name)).output

    def _input(self, name: str, index: int) -> Value:
        return self._mlir.create_input_op(self._location(name), index)

    def _type(self, shape: list[int]) -> Any:
        return self._mlir.get_tensor_type(shape)

    def _path(self, weight: str) -> str:
        return str(self._prefix + self._names[weight])

    def _location(self, name: str) -> Any:
        return self._converter.get_loc(name, self._mlir)

    def _at(self, name: str) -> dict[str, Any]:
        return {"loc": self._location(name), "ip": self._mlir.insert_point}
