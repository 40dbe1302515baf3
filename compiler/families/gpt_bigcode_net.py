"""The nets of one GPTBigCode layer (runs in the compiler's environment).

Inputs   input_states [1, tokens, hidden], position_ids [1, tokens] int32,
         attention_mask [1, 1, tokens, attended] unless the mask is a weight,
         history_k, history_v [1, history, 1, head_dim] where there is a history.
Outputs  output_states [1, tokens, hidden], k_cache, v_cache [1, tokens, 1, head_dim].

Position embeddings are added in the first layer, so that the embedding net has the one input that
every other family's has. The other layers add zeros of the same kind: LayerNorm computes in
float32, and a net whose input goes nowhere else would take float32 states. For the same reason the
last norm's bias is an addition of its own.
"""

from dataclasses import dataclass
from typing import Any

from llm.LlmInfo import LlmList  # type: ignore[import-not-found]
from mlir.dialects import top  # type: ignore[import-not-found]
from transform.MLIRImporter import MLIRImporter  # type: ignore[import-not-found]

from compiler.batched.decode import DecodeNet
from compiler.batched.ladder import Variant

# A value of the graph under construction; the vendor's bindings carry no types.
Value = Any

POSITIONS = "model.embed_positions"
NO_POSITIONS = "no_positions"
NO_BIAS = "no_bias"


@dataclass(frozen=True, slots=True)
class Shape:
    """tokens: new rows. history: KV rows before them. decode: the mask is always an input."""

    tokens: int
    history: int = 0
    decode: bool = False


class Parts:
    """What all nets of a layer have in common.

    A class that derives from it has the layer's number in `_layer` and the shape of its states in
    `_states`, beside what `DecodeNet` has.
    """

    def _add_positions(self: Any, states: Value, positions: Value) -> Value:
        c = self._converter
        source, width = (POSITIONS, c.hidden_size) if self._layer == 0 else (NO_POSITIONS, 1)
        table = self._mlir.create_weight_op(f"{source}.weight", [c.seq_length, width])
        out = self._type([*self._states[:2], width])
        taken = top.GatherOp(out, table, positions, axis=0, **self._at(source)).output
        return self._add(states, taken, "states_with_positions")

    def _mlp(self: Any, states: Value) -> Value:
        c = self._converter
        normed = self._norm(states, self._path(LlmList.POST_ATTN_LN))
        down = self._reshape(self._inner(normed), self._states, "mlp_rows")
        if self._layer < c.num_layers - 1:
            return self._add(states, down, "output_states")
        norm = self._names[LlmList.NORM]
        scaled = self._norm(self._add(states, down, "residual"), norm, bias=NO_BIAS)
        bias = self._mlir.create_weight_op(f"{norm}.bias", [1, 1, c.hidden_size])
        return self._add(scaled, bias, "output_states")

    def _inner(self: Any, states: Value) -> Value:
        """[1, rows, hidden] whatever the shape of the states.

        The compiler cuts the inner size in parts when it sees this shape; the nets of a layer share
        their weights only if it cuts all of them.
        """
        c = self._converter
        rows = self._states[0] * self._states[1]
        hidden, inner = [1, rows, c.hidden_size], [1, rows, c.intermediate_size]
        flat = self._reshape(states, hidden, "mlp_input")
        up = self._linear_as(LlmList.MLP_UP, flat, inner)
        up = c.activate(self._mlir, up, c.hidden_act, self._path(LlmList.MLP_UP))
        return self._linear_as(LlmList.MLP_DOWN, up, hidden)

    def _linear_as(self: Any, projection: str, states: Value, out: list[int]) -> Value:
        widths = [states.type.shape[2], out[2]]
        return self._converter.linear(self._mlir, self._path(projection), states, widths, out)

    def _reshape(self: Any, states: Value, shape: list[int], name: str) -> Value:
        if list(states.type.shape) == shape:
            return states
        return top.ReshapeOp(self._type(shape), states, **self._at(name)).output

    def _norm(self: Any, states: Value, path: str, bias: str = "") -> Value:
        c = self._converter
        shape = [1, 1, c.hidden_size]
        return top.LayerNormOp(
            self._type(self._states),
            states,
            self._mlir.create_weight_op(f"{path}.weight", shape),
            self._mlir.create_weight_op(f"{bias or path}.bias", shape),
            normalized_shape=[c.hidden_size],
            axis=2,
            eps=c.rms_norm_eps,
            **self._at(path),
        ).output


class LayerNet(Parts):
    """Builds the net `name` of layer `layer` for one sequence, with the converter's linear."""

    def __init__(self, converter: Any, layer: int, name: str, shape: Shape) -> None:
        self._converter = converter
        self._layer = layer
        self._shape = shape
        self._names = converter.model_info.weights
        self._mask_weight = converter.use_small_mask() and not shape.decode
        tokens, dim = shape.tokens, converter.head_dim
        self._states = [1, tokens, converter.hidden_size]
        self._row = [1, tokens, 1, dim]
        inputs, types = [self._states, [1, tokens]], ["F32", "INT32"]
        if not self._mask_weight:
            inputs.append([1, 1, tokens, tokens + shape.history])
        if shape.history:
            inputs += [[1, shape.history, 1, dim]] * 2
        types += ["F32"] * (len(inputs) - 2)
        self._mlir = MLIRImporter(
            inputs,
            [self._states, self._row, self._row],
            name,
            converter.platform,
            types,
            weight_file=f"../block_{layer}_top_weights.npz",
        )

    def build(self) -> Any:
        """The finished module; the converter's `save_mlir_module` writes it."""
        names = ["input_states", "position_ids"]
        names += [] if self._mask_weight else ["attention_mask"]
        names += ["history_k", "history_v"] if self._shape.history else []
        given = {
            name: self._mlir.create_input_op(self._location(name), index)
            for index, name in enumerate(names)
        }
        states = self._add_positions(given["input_states"], given["position_ids"])
        attended, new_rows = self._attention(states, given)
        states = self._add(states, attended, self._path(LlmList.O_PROJ) + ".add")
        states = self._mlp(states)
        self._mlir.create_return_op([states, *new_rows])
        return self._mlir

    def _attention(self, states: Value, given: dict[str, Value]) -> tuple[Value, list[Value]]:
        c, shape = self._converter, self._shape
        normed = self._norm(states, self._path(LlmList.INPUT_LN))
        query = self._heads(LlmList.Q_PROJ, normed, c.num_attention_heads, "query")
        new_rows = [
            self._heads(LlmList.K_PROJ, normed, 1, "k_cache"),
            self._heads(LlmList.V_PROJ, normed, 1, "v_cache"),
        ]
        keys, values = new_rows
        if shape.history:
            keys = self._merge(given["history_k"], keys, "keys")
            values = self._merge(given["history_v"], values, "values")
        mask, sizes = self._mask(given)
        width = c.num_attention_heads * c.head_dim
        mixed = top.FAttentionOp(
            self._type([1, shape.tokens, width]),
            query,
            keys,
            values,
            mask,
            self._mlir.none_op,
            scale=c.head_dim**-0.5,
            batch=1,
            q_head=c.num_attention_heads,
            kv_head=1,
            dim=c.head_dim,
            mq=shape.tokens,
            mk=shape.tokens + shape.history,
            keep_dims=False,
            **sizes,
            **self._at("attention"),
        ).output
        return self._linear(LlmList.O_PROJ, mixed, width, c.hidden_size), new_rows

    def _mask(self, given: dict[str, Value]) -> tuple[Value, dict[str, int]]:
        if self._shape.decode:
            # The prefill nets of this layer may hold a mask among their weights; naming it here
            # keeps the layout of the weights equal, which is what lets the nets share them.
            self._converter.create_decode_mask_placeholder(self._mlir)
            return given["attention_mask"], {}
        mask, size = self._converter.get_fattention_mask_op(self._mlir, given.get("attention_mask"))
        return mask, {"mask_size": size}

    def _heads(self, projection: str, states: Value, heads: int, name: str) -> Value:
        c = self._converter
        flat = self._linear(projection, states, c.hidden_size, heads * c.head_dim)
        out = self._type([1, self._shape.tokens, heads, c.head_dim])
        shape = [1, -1, heads, c.head_dim]
        return top.ReshapeOp(out, flat, shape=shape, **self._at(name)).output

    def _linear(self, projection: str, states: Value, width_in: int, width_out: int) -> Value:
        out = [1, self._shape.tokens, width_out]
        path = self._path(projection)
        return self._converter.linear(self._mlir, path, states, [width_in, width_out], out)

    def _merge(self, history: Value, new_rows: Value, name: str) -> Value:
        rows = self._shape.history + self._shape.tokens
        out = self._type([1, rows, 1, self._converter.head_dim])
        both = [history, new_rows]
        return top.ConcatOp(out, both, axis=1, only_merge=True, **self._at(name)).output

    def _add(self, left: Value, right: Value, name: str) -> Value:
        return top.AddOp(self._type(self._states), [left, right], **self._at(name)).output

    def _type(self, shape: list[int]) -> Any:
        return self._mlir.get_tensor_type(shape)

    def _path(self, weight: str) -> str:
        return f"{self._names[LlmList.LAYERS]}.{self._layer}.{self._names[weight]}"

    def _location(self, name: str) -> Any:
        return self._converter.get_loc(name, self._mlir)

    def _at(self, name: str) -> dict[str, Any]:
        return {"loc": self._location(name), "ip": self._mlir.insert_point}


class BatchedLayerNet(Parts, DecodeNet):
    """The decode net for several slots; its inputs and outputs are those of `DecodeNet`."""

    def __init__(self, converter: Any, layer: int, variant: Variant, slots: int) -> None:
        super().__init__(converter, layer, variant, slots)
        self._layer = layer

    def build(self) -> Any:
        states = self._input("input_states", 0)
        positions = self._input("position_ids", 1)
        mask = self._input("attention_mask", 2)
        histories = [
            (self._input(f"history_k_{j}", 3 + 2 * j), self._input(f"history_v_{j}", 4 + 2 * j))
            for j in range(self._slots)
        ]
        states = self._add_positions(states, positions)
        attended, new_rows = self._attention(states, positions, mask, histories)
        states = self._add(states, attended, self._path(LlmList.O_PROJ) + ".add")
        self._mlir.create_return_op([self._mlp(states), *new_rows])
        return self._mlir

    def _projections(self, states: Value, positions: Value) -> tuple[Value, Value, Value]:
        """Query, key and value of all rows; nothing turns with the position."""
        normed = self._norm(states, self._path(LlmList.INPUT_LN))
        return (
            self._heads(LlmList.Q_PROJ, normed, self._converter.num_attention_heads, "query"),
            self._heads(LlmList.K_PROJ, normed, 1, self._row_name("k_cache")),
            self._heads(LlmList.V_PROJ, normed, 1, self._row_name("v_cache")),
        )
