"""The nets of a layer that attends to images (run in the compiler's environment).

cross_kv_<i>     in cross_attention_states [tiles, patches, hidden] of one image
                 out image_k, image_v [1, tiles × patches, kv_heads, head_dim]
block_<i>        in input_states [1, tokens, hidden], row_mask [1, tokens, 1],
                    attention_mask [1, 1, tokens, columns],
                    image_k_0, image_v_0 [1, columns, kv_heads, head_dim]
                 out output_states
block_cache_<i>  in input_states [rows, 1, hidden], row_mask [rows, 1, 1],
                    attention_mask [rows, 1, 1, columns], then per slot image_k_<j>, image_v_<j>
                 out output_states

columns = images × tiles × patches. Keys and values are computed once for an image, not in every
prefill, and are kept as they come: not repeated for the heads that share them.

A row of `row_mask` is 0 for a token that sees no tile. In prefill its attention still counts and
its MLP does not, as in transformers 4.45.2. In decode nothing counts: there such a row belongs to a
sequence without images, for which the layer does not exist.
"""

from typing import Any

import numpy as np
from llm.LlmInfo import LlmList  # type: ignore[import-not-found]

from compiler.families.graph import Graph, Input, Value, shape_of

_KV = (LlmList.C_K_PROJ, LlmList.C_V_PROJ)
_NORMS = (LlmList.INPUT_LN, LlmList.POST_ATTN_LN, LlmList.C_Q_NORM)
_PROJECTIONS = (
    LlmList.C_Q_PROJ,
    LlmList.C_O_PROJ,
    LlmList.MLP_GATE,
    LlmList.MLP_UP,
    LlmList.MLP_DOWN,
)


class CrossLayer:
    """One layer. `images`: how many of them a sequence can have."""

    def __init__(self, converter: Any, layer: int, images: int) -> None:
        self._converter = converter
        self._layer = layer
        self._names = converter.model_info.weights
        config = converter.config.vision_config
        self._tiles = config.max_num_tiles
        self._patches = (config.image_size // config.patch_size) ** 2 + 1
        self._columns = images * self._tiles * self._patches

    def save_weights(self) -> None:
        """Before the modules are saved: the vendor's check of them reads these."""
        rest, images = dict[str, Any](), dict[str, Any]()
        for norm in _NORMS:
            self._converter.set_common_weight(self._path(norm), rest)
        for projection in _PROJECTIONS:
            self._converter.set_linear_weight(self._path(projection), rest)
        for projection in _KV:
            self._converter.set_linear_weight(self._path(projection), images)
        self._converter.set_common_weight(self._path(LlmList.C_K_NORM), images)
        np.savez(f"block_{self._layer}_top_weights.npz", **rest)
        np.savez(f"cross_kv_{self._layer}_top_weights.npz", **images)

    def image_net(self) -> Any:
        c = self._converter
        columns = self._tiles * self._patches
        shape = [1, columns, c.num_key_value_heads, c.head_dim]
        net = Graph(
            c,
            f"cross_kv_{self._layer}",
            inputs=[
                Input("cross_attention_states", [self._tiles, self._patches, c.hidden_size]),
            ],
            outputs=[shape, shape],
            weights=f"../cross_kv_{self._layer}_top_weights.npz",
        )
        states = net.inputs["cross_attention_states"]
        states = net.reshape(states, [1, columns, c.hidden_size], "image_rows")
        k, v = (net.linear(self._path(projection), states, c.kv_dim) for projection in _KV)
        k = net.reshape(k, shape, "image_k_heads")
        k = net.rms_norm(k, self._path(LlmList.C_K_NORM), "image_k")
        return net.finish(k, net.reshape(v, shape, "image_v"))

    def prefill_net(self, tokens: int) -> Any:
        net = self._graph(f"block_{self._layer}", [1, tokens], slots=1)
        return net.finish(self._block(net, slots=1, decode=False))

    def decode_net(self, rows: int, slots: int) -> Any:
        net = self._graph(f"block_cache_{self._layer}", [rows, 1], slots=slots)
        return net.finish(self._block(net, slots=slots, decode=True))

    def _graph(self, name: str, shape: list[int], *, slots: int) -> Graph:
        c = self._converter
        rows, tokens = shape
        images = [1, self._columns, c.num_key_value_heads, c.head_dim]
        states = [*shape, c.hidden_size]
        return Graph(
            c,
            name,
            inputs=[
                Input("input_states", states),
                Input("row_mask", [*shape, 1]),
                Input("attention_mask", [rows, 1, tokens, self._columns]),
                *(Input(f"image_{part}_{j}", images) for j in range(slots) for part in "kv"),
            ],
            outputs=[states],
            weights=f"../block_{self._layer}_top_weights.npz",
        )

    def _block(self, net: Graph, *, slots: int, decode: bool) -> Value:
        states, row_mask = net.inputs["input_states"], net.inputs["row_mask"]
        # The inputs of slots that this variant does not compute: left unused they would keep
        # another type than in the other variants.
        for slot in range(shape_of(states)[0], slots):
            for part in "kv":
                corner = net.corner(net.inputs[f"image_{part}_{slot}"], f"corner_{part}_{slot}")
                nothing = net.scale(corner, 0.0, f"nothing_{part}_{slot}")
                row_mask = net.add(row_mask, nothing, f"row_mask_{part}_{slot}")
        attended = net.scale(
            self._attention(net, states, slots), self._gate(LlmList.C_ATTN_GATE), "gated_attention"
        )
        if decode:
            attended = net.multiply(attended, row_mask, "visible_attention")
        states = net.add(states, attended, "attended")
        inner = net.scale(self._mlp(net, states), self._gate(LlmList.C_MLP_GATE), "gated_mlp")
        return net.add(states, net.multiply(inner, row_mask, "visible_mlp"), "output_states")

    def _attention(self, net: Graph, states: Value, slots: int) -> Value:
        c = self._converter
        rows, tokens, _ = shape_of(states)
        width = c.num_attention_heads * c.head_dim
        normed = net.rms_norm(states, self._path(LlmList.INPUT_LN))
        query = net.linear(self._path(LlmList.C_Q_PROJ), normed, width)
        query = net.reshape(query, [rows, tokens, c.num_attention_heads, c.head_dim], "query_heads")
        query = net.rms_norm(query, self._path(LlmList.C_Q_NORM), "query")
        mask = net.inputs["attention_mask"]
        mixed = [
            net.attend(
                net.slice(query, 0, slot, 1, f"query_{slot}"),
                net.inputs[f"image_k_{slot}"],
                net.inputs[f"image_v_{slot}"],
                net.slice(mask, 0, slot, 1, f"mask_{slot}"),
                f"attention_{slot}",
            )
            for slot in range(min(rows, slots))
        ]
        merged = net.concat(mixed, 0, "attention_rows")
        return net.linear(self._path(LlmList.C_O_PROJ), merged, c.hidden_size)

    def _mlp(self, net: Graph, states: Value) -> Value:
        c = self._converter
        normed = net.rms_norm(states, self._path(LlmList.POST_ATTN_LN))
        gate = net.linear(self._path(LlmList.MLP_GATE), normed, c.intermediate_size)
        gate = net.activate(c.hidden_act, gate, self._path(LlmList.MLP_GATE))
        up = net.linear(self._path(LlmList.MLP_UP), normed, c.intermediate_size)
        product = net.multiply(gate, up, "mlp_product")
        return net.linear(self._path(LlmList.MLP_DOWN), product, c.hidden_size)

    def _gate(self, weight: str) -> float:
        return float(np.tanh(self._converter.model.read(self._path(weight))).item())

    def _path(self, weight: str) -> str:
        return f"{self._names[LlmList.LAYERS]}.{self._layer}.{self._names[weight]}"
