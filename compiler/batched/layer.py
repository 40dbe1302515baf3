"""What all nets of a transformer layer have in common (run in the compiler's environment)."""

from typing import Any

from llm.LlmInfo import LlmList, LlmType  # type: ignore[import-not-found]
from mlir.dialects import top  # type: ignore[import-not-found]
from mlir.ir import StringAttr  # type: ignore[import-not-found]
from transform.MLIRImporter import MLIRImporter  # type: ignore[import-not-found]

# A value of the graph under construction; the vendor's bindings carry no types.
Value = Any


class LayerParts:
    """Pieces of a layer over states [a, b, hidden], with the converter's linear and norm.

    A class that derives from it calls `_open` once; a row of its states is a token.
    """

    def __init__(self, converter: Any, layer: int, states: list[int]) -> None:
        self._converter = converter
        self._last_layer = layer == converter.num_layers - 1
        self._layer_index = layer
        self._states = states
        names = converter.model_info.weights
        self._prefix = f"{names[LlmList.LAYERS]}.{layer}."
        self._names = names

    def _open(self, name: str, inputs: list[list[int]], outputs: list[list[int]]) -> None:
        """Start the module: states first, then int32 positions, floats behind."""
        self._mlir = MLIRImporter(
            inputs,
            outputs,
            name,
            self._converter.platform,
            ["F32", "INT32", *["F32"] * (len(inputs) - 2)],
            weight_file=f"../block_{self._layer_index}_top_weights.npz",
        )

    def _row_name(self, tensor: str) -> str:
        """What the projection of k_cache or v_cache is called."""
        return tensor

    def _projections(self, states: Value, positions: Value) -> tuple[Value, Value, Value]:
        """Query, key (both rotated) and value of all rows: [a, b, heads, head_dim]."""
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

    def _heads(self, projection: str, states: Value, heads: int, name: str) -> Value:
        width = heads * self._converter.head_dim
        flat = self._linear(projection, states, self._converter.hidden_size, width)
        out = [*self._states[:2], heads, self._converter.head_dim]
        # Dynamic nets take fewer rows than the shape says.
        shape = [out[0], -1, *out[2:]]
        return top.ReshapeOp(self._type(out), flat, shape=shape, **self._at(name)).output

    def _rotary(self, name: str, positions: Value, dim: int) -> Value:
        table = self._mlir.create_weight_op(f"{name}.weight", [self._converter.seq_length, 1, dim])
        out = self._type([*self._states[:2], 1, dim])
        return top.GatherOp(out, table, positions, axis=0, **self._at(name)).output

    def _rope(self, states: Value, sin: Value, cos: Value, name: str) -> Value:
        mode = StringAttr.get("contiguous_halves")
        shape = self._type(list(states.type.shape))
        return top.RopeOp(shape, states, sin, cos, rope_mode=mode, **self._at(name)).output

    def _attend(
        self,
        query: Value,
        keys: Value,
        values: Value,
        mask: Value,
        name: str,
        *,
        mask_size: int = 0,
    ) -> Value:
        """One sequence: query [1, n, heads, head_dim] over keys and values [1, m, kv_heads, …].

        mask_size: of a mask that is a weight; 0 for one that is an input.
        """
        c = self._converter
        rows = int(query.type.shape[1])
        return top.FAttentionOp(
            self._type([1, rows, c.num_attention_heads * c.head_dim]),
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
            mq=rows,
            mk=int(keys.type.shape[1]),
            keep_dims=False,
            mask_size=mask_size,
            **self._at(name),
        ).output

    def _mlp(self, states: Value) -> Value:
        c = self._converter
        hidden, inner = c.hidden_size, c.intermediate_size
        normed = c.rms_norm(self._mlir, states, self._path(LlmList.POST_ATTN_LN))
        gate = self._linear(LlmList.MLP_GATE, normed, hidden, inner)
        gate = c.activate(self._mlir, gate, c.hidden_act, self._path(LlmList.MLP_GATE))
        up = self._linear(LlmList.MLP_UP, normed, hidden, inner)
        product_type = self._type([*self._states[:2], inner])
        product = top.MulOp(product_type, [gate, up], **self._at("mlp_product")).output
        down = self._linear(LlmList.MLP_DOWN, product, inner, hidden)
        if not self._last_layer:
            return self._add(states, down, "output_states")
        states = self._add(states, down, "residual")
        return c.rms_norm(self._mlir, states, self._names[LlmList.NORM], "output_states")

    def _linear(self, projection: str, states: Value, width_in: int, width_out: int) -> Value:
        out = [*self._states[:2], width_out]
        path = self._path(projection)
        return self._converter.linear(self._mlir, path, states, [width_in, width_out], out)

    def _merge(self, history: Value, new_rows: Value, name: str) -> Value:
        shape = list(history.type.shape)
        out = self._type([1, shape[1] + int(new_rows.type.shape[1]), *shape[2:]])
        both = [history, new_rows]
        return top.ConcatOp(out, both, axis=1, only_merge=True, **self._at(name)).output

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
