"""The image net of Llama-3.2-Vision (runs in the compiler's environment).

vit   in pixel_values [tiles, channels, side, side] float32, aspect_ratio_ids [1, 1] int32,
         aspect_ratio_mask [1, 1, tiles] int32 (1: the tile is part of the image)
      out cross_attention_states [tiles, patches, hidden]

The arithmetic is that of transformers 4.45.2: entry i of `intermediate_layers_indices` names the
input of layer i, and hidden rows (absent tiles, the rows that fill patches up to a multiple of 8)
are masked for each other only. What depends on weights alone is computed here once: gates, and the
sum of the position tables.
"""

from typing import Any

import numpy as np

from compiler.families.graph import Graph, Input, Value

WEIGHTS = "vit_top_weights.npz"
_MODEL = "vision_model"
_PROJECTOR = "multi_modal_projector"
_PATCH = f"{_MODEL}.patch_embedding.weight"
_CLASS = f"{_MODEL}.class_embedding"
_PRE_TILE = f"{_MODEL}.pre_tile_positional_embedding"
_POSITIONS = f"{_MODEL}.gated_positional_embedding"
_POST_TILE = f"{_MODEL}.post_tile_positional_embedding"
_PRE_NORM = f"{_MODEL}.layernorm_pre"
_POST_NORM = f"{_MODEL}.layernorm_post"
# The default of the norms that the configuration does not name.
_NORM_EPS = 1e-5
_ROWS_MULTIPLE = 8
_HIDDEN = -10000.0
_PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_NORMS = ("input_layernorm", "post_attention_layernorm")


class VisionNet:
    """Builds `vit` with the converter's weights."""

    def __init__(self, converter: Any) -> None:
        self._converter = converter
        self._read = converter.model.read
        config = converter.config.vision_config
        self._config = config
        self._tiles = config.max_num_tiles
        self._width = config.hidden_size
        side = config.image_size // config.patch_size
        self._patches = side * side + 1
        self._padding = -self._patches % _ROWS_MULTIPLE
        # Rows of all tiles together.
        self._rows = self._tiles * (self._patches + self._padding)

    def save_weights(self) -> None:
        """Before the module is saved: the vendor's check of it reads them."""
        read, weights = self._read, dict[str, Any]()
        weights[_PATCH] = read(_PATCH)
        weights[_CLASS] = np.tile(read(_CLASS).reshape(1, 1, -1), (self._tiles, 1, 1))
        for path in (_PRE_TILE, _POST_TILE):
            weights[path] = read(f"{path}.embedding.weight") * np.tanh(read(f"{path}.gate"))
        weights[_POSITIONS] = self._position_table()
        for path in (_PRE_NORM, _POST_NORM):
            self._converter.set_common_weight(path, weights)
        for layer in self._layers():
            for norm in _NORMS:
                self._converter.set_common_weight(f"{layer}.{norm}", weights)
            for projection in (*_PROJECTIONS, "mlp.fc1", "mlp.fc2"):
                self._converter.set_linear_weight(f"{layer}.{projection}", weights)
        self._converter.set_linear_weight(_PROJECTOR, weights)
        np.savez(WEIGHTS, **weights)

    def _position_table(self) -> Any:
        """[ratios, tiles × patches × width]: of the patch, and of the patch and tile, gated."""
        gate = np.tanh(self._read(f"{_POSITIONS}.gate"))
        patch = self._read(f"{_POSITIONS}.embedding").reshape(1, -1)
        tile = self._read(f"{_POSITIONS}.tile_embedding.weight")
        return gate * tile + (1 - gate) * np.tile(patch, (1, self._tiles))

    def _layers(self) -> list[str]:
        depths = {
            "transformer": self._config.num_hidden_layers,
            "global_transformer": self._config.num_global_layers,
        }
        return [
            f"{_MODEL}.{part}.layers.{layer}"
            for part, depth in depths.items()
            for layer in range(depth)
        ]

    def build(self) -> Any:
        config, tiles = self._config, self._tiles
        side = config.image_size
        net = Graph(
            self._converter,
            "vit",
            inputs=[
                Input("pixel_values", [tiles, config.num_channels, side, side]),
                Input("aspect_ratio_ids", [1, 1], "INT32"),
                Input("aspect_ratio_mask", [1, 1, tiles], "INT32"),
            ],
            outputs=[[tiles, self._patches, self._converter.hidden_size]],
            weights=f"../{WEIGHTS}",
        )
        mask = self._mask(net)
        x = self._embed(net)
        kept: list[Value] = []
        indices = list(config.intermediate_layers_indices)
        for layer in range(config.num_hidden_layers):
            if layer in indices:
                kept.append(x)
            x = self._layer(net, f"{_MODEL}.transformer.layers.{layer}", x, mask)
        if config.num_hidden_layers in indices:
            kept.append(x)
        x = net.layer_norm(x, _POST_NORM, _NORM_EPS)
        x = self._add_tiles(net, x, _POST_TILE)
        for layer in range(config.num_global_layers):
            x = self._layer(net, f"{_MODEL}.global_transformer.layers.{layer}", x, mask)
        return net.finish(self._project(net, x, kept))

    def _ratio_rows(self, net: Graph, path: str, shape: list[int]) -> Value:
        """What the table `path` has for this aspect ratio."""
        ratios = len(self._config.supported_aspect_ratios) + 1
        table = net.weight(path, [ratios, int(np.prod(shape))])
        rows = net.gather(table, net.inputs["aspect_ratio_ids"], f"{path}.rows")
        return net.reshape(rows, shape, f"{path}.shaped")

    def _embed(self, net: Graph) -> Value:
        config, tiles, width = self._config, self._tiles, self._width
        side = config.patch_size
        kernel = net.weight(_PATCH, [width, config.num_channels, side, side])
        x = net.convolve(net.inputs["pixel_values"], kernel, side, "patches")
        x = net.reshape(x, [tiles, width, self._patches - 1], "patches.flat")
        x = net.permute(x, [0, 2, 1], "patches.rows")
        x = net.add(x, self._ratio_rows(net, _PRE_TILE, [tiles, 1, width]), "patches.placed")
        x = net.concat([net.weight(_CLASS, [tiles, 1, width]), x], 1, "with_class")
        positions = self._ratio_rows(net, _POSITIONS, [tiles, self._patches, width])
        x = net.layer_norm(net.add(x, positions, "embedded"), _PRE_NORM, _NORM_EPS)
        x = net.reshape(x, [1, tiles, self._patches, width], "unpadded")
        x = net.pad(x, 2, self._padding, "padded")
        return net.reshape(x, [1, self._rows, width], "rows")

    def _add_tiles(self, net: Graph, x: Value, path: str) -> Value:
        rows = [self._tiles, self._rows // self._tiles, self._width]
        x = net.reshape(x, rows, f"{path}.by_tile")
        x = net.add(x, self._ratio_rows(net, path, [self._tiles, 1, self._width]), f"{path}.add")
        return net.reshape(x, [1, self._rows, self._width], f"{path}.flat")

    def _mask(self, net: Graph) -> Value:
        """[1, 1, rows, rows]: hidden where both rows are."""
        x = net.reshape(net.inputs["aspect_ratio_mask"], [1, self._tiles, 1, 1], "mask.tiles")
        x = net.tile(x, [1, 1, self._patches, 1], "mask.patches")
        x = net.one_minus(net.pad(x, 2, self._padding, "mask.padded"), "mask.hidden")
        column = net.reshape(x, [1, 1, self._rows, 1], "mask.column")
        row = net.reshape(x, [1, 1, 1, self._rows], "mask.row")
        both = net.matmul(column, row, [1, 1, self._rows, self._rows], "mask.both")
        return net.scale(both, _HIDDEN, "mask")

    def _layer(self, net: Graph, path: str, x: Value, mask: Value) -> Value:
        eps = self._config.norm_eps
        normed = net.layer_norm(x, f"{path}.input_layernorm", eps)
        attended = self._attention(net, path, normed, mask)
        x = net.add(x, self._gated(net, path, "gate_attn", attended), f"{path}.attended")
        normed = net.layer_norm(x, f"{path}.post_attention_layernorm", eps)
        inner = net.linear(f"{path}.mlp.fc1", normed, self._config.intermediate_size)
        inner = net.activate(self._config.hidden_act, inner, f"{path}.mlp.fc1")
        inner = net.linear(f"{path}.mlp.fc2", inner, self._width)
        return net.add(x, self._gated(net, path, "gate_ffn", inner), f"{path}.output")

    def _attention(self, net: Graph, path: str, x: Value, mask: Value) -> Value:
        heads = self._config.attention_heads
        shape = [1, self._rows, heads, self._width // heads]
        q, k, v = (
            net.reshape(
                net.linear(f"{path}.{projection}", x, self._width),
                shape,
                f"{path}.{projection}.heads",
            )
            for projection in _PROJECTIONS[:3]
        )
        mixed = net.attend(q, k, v, mask, f"{path}.attention")
        return net.linear(f"{path}.{_PROJECTIONS[3]}", mixed, self._width)

    def _gated(self, net: Graph, path: str, gate: str, x: Value) -> Value:
        if not self._converter.model.is_exist(f"{path}.{gate}"):
            return x
        factor = float(np.tanh(self._read(f"{path}.{gate}")).item())
        return net.scale(x, factor, f"{path}.{gate}")

    def _project(self, net: Graph, x: Value, kept: list[Value]) -> Value:
        """The last states and, entry by entry interleaved, the kept ones; into the text's width."""
        by_tile = [self._tiles, self._rows // self._tiles]
        columns = [
            net.reshape(states, [1, self._rows, self._width, 1], f"kept.{index}")
            for index, states in enumerate(kept)
        ]
        width = self._width * len(kept)
        mixed = net.reshape(net.concat(columns, 3, "kept"), [*by_tile, width], "kept.by_tile")
        x = net.concat([net.reshape(x, [*by_tile, self._width], "last.by_tile"), mixed], 2, "all")
        x = net.slice(x, 1, 0, self._patches, "all.patches")
        return net.linear(_PROJECTOR, x, self._converter.hidden_size)
