"""A small checkpoint of the Llama-3.2-Vision architecture with random weights.

All that the published model has is there: gated global layers behind plain ones, intermediate
states, four tiles in eight shapes, layers that attend to images between those that do not, four
query heads for one of keys and values, rotary scaling, an embedding that knows eight ids more than
the head. Drawn from a fixed seed: the same values everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
CONFIG = HERE / "config.json"
_EXTRA_IDS = 8

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """config: as in config.json. weights: the stored float16 values."""

    config: Mapping[str, Any]
    weights: Mapping[str, Array]

    def write(self, directory: Path) -> Path:
        """config.json and one safetensors file in the empty or new directory."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(self.config), encoding="utf-8")
        header: dict[str, Any] = {}
        pieces: list[bytes] = []
        end = 0
        for name, values in self.weights.items():
            data = values.astype("<f2").tobytes()
            offsets = [end, end + len(data)]
            header[name] = {"dtype": "F16", "shape": list(values.shape), "data_offsets": offsets}
            pieces.append(data)
            end += len(data)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (directory / "model.safetensors").open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            out.writelines(pieces)
        return directory


def load() -> Checkpoint:
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    return Checkpoint(config, draw(config))


def draw(config: Mapping[str, Any]) -> dict[str, Array]:
    """Projections that keep the variance, norms around 1, gates that let everything through."""
    source = np.random.default_rng(23)
    weights = {}
    for name, shape in shapes(config).items():
        values = source.normal(size=shape)
        if name.endswith(("gate", "gate_attn", "gate_ffn")):
            values = 0.5 + 0.25 * values
        elif "norm" in name and name.endswith("weight"):
            values = 1 + 0.2 * values
        elif name.endswith("bias"):
            values = 0.3 * values
        elif "positional_embedding" not in name and len(shape) > 1:
            values *= float(np.prod(shape[1:])) ** -0.5
        weights[name] = values.astype(np.float16).astype(np.float64)
    # The embedding feeds a norm: rows of the usual size.
    weights["language_model.model.embed_tokens.weight"] *= 4
    return weights


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint, as transformers 4.45.2 names and shapes them."""
    text, vision = config["text_config"], config["vision_config"]
    return {
        **{f"language_model.{name}": shape for name, shape in _text_shapes(text).items()},
        **{f"vision_model.{name}": shape for name, shape in _vision_shapes(vision).items()},
        "multi_modal_projector.weight": (text["hidden_size"], vision["vision_output_dim"]),
        "multi_modal_projector.bias": (text["hidden_size"],),
    }


def _text_shapes(text: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, vocab = text["hidden_size"], text["intermediate_size"], text["vocab_size"]
    dim = hidden // text["num_attention_heads"]
    kv = text["num_key_value_heads"] * dim
    made: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab + _EXTRA_IDS, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (vocab, hidden),
    }
    for layer in range(text["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        crossing = layer in text["cross_attention_layers"]
        attention = prefix + ("cross_attn." if crossing else "self_attn.")
        made |= {
            attention + "q_proj.weight": (hidden, hidden),
            attention + "k_proj.weight": (kv, hidden),
            attention + "v_proj.weight": (kv, hidden),
            attention + "o_proj.weight": (hidden, hidden),
            prefix + "mlp.gate_proj.weight": (inner, hidden),
            prefix + "mlp.up_proj.weight": (inner, hidden),
            prefix + "mlp.down_proj.weight": (hidden, inner),
            prefix + "input_layernorm.weight": (hidden,),
            prefix + "post_attention_layernorm.weight": (hidden,),
        }
        if crossing:
            made |= {
                attention + "q_norm.weight": (dim,),
                attention + "k_norm.weight": (dim,),
                prefix + "cross_attn_attn_gate": (1,),
                prefix + "cross_attn_mlp_gate": (1,),
            }
    return made


def _vision_shapes(vision: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, inner, tiles = (
        vision["hidden_size"],
        vision["intermediate_size"],
        vision["max_num_tiles"],
    )
    patches = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    ratios = len(vision["supported_aspect_ratios"]) + 1
    norm = {"weight": (width,), "bias": (width,)}
    made: dict[str, tuple[int, ...]] = {
        "patch_embedding.weight": (
            width,
            vision["num_channels"],
            vision["patch_size"],
            vision["patch_size"],
        ),
        "class_embedding": (width,),
        "gated_positional_embedding.gate": (1,),
        "gated_positional_embedding.embedding": (patches, width),
        "gated_positional_embedding.tile_embedding.weight": (ratios, tiles * patches * width),
    }
    for place in ("pre", "post"):
        made |= {
            f"{place}_tile_positional_embedding.gate": (1,),
            f"{place}_tile_positional_embedding.embedding.weight": (ratios, tiles * width),
            **{f"layernorm_{place}.{kind}": shape for kind, shape in norm.items()},
        }
    for part, depth in (
        ("transformer", vision["num_hidden_layers"]),
        ("global_transformer", vision["num_global_layers"]),
    ):
        for layer in range(depth):
            prefix = f"{part}.layers.{layer}."
            made |= {f"{prefix}self_attn.{kind}_proj.weight": (width, width) for kind in "qkvo"}
            made |= {
                prefix + "mlp.fc1.weight": (inner, width),
                prefix + "mlp.fc1.bias": (inner,),
                prefix + "mlp.fc2.weight": (width, inner),
                prefix + "mlp.fc2.bias": (width,),
            }
            for name in ("input_layernorm", "post_attention_layernorm"):
                made |= {f"{prefix}{name}.{kind}": shape for kind, shape in norm.items()}
            if part == "global_transformer":
                made |= {prefix + "gate_attn": (1,), prefix + "gate_ffn": (1,)}
    return made
