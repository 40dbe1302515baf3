"""Mllama (Llama-3.2-Vision): Llama with layers that attend to the states of an image encoder.

The tensors stay as they are; `mllama_driver.py` builds the nets.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compiler.errors import CompileError
from compiler.families.family import Family, refuse_unless, required
from compiler.families.tensor_file import Rows

_ATTENTION = tuple(f"{part}_proj" for part in "qkvo")
_MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_TEXT = "language_model"
_VISION = "vision_model"


def check(config: Mapping[str, Any]) -> None:
    text, vision = required(config, "text_config"), required(config, "vision_config")
    refuse_unless(text, "tie_word_embeddings", False)
    refuse_unless(config, "quantization_config", None)
    layers, crossing = int(required(text, "num_hidden_layers")), _crossing(config)
    # Positions come from the first layer and the last norm is in the last one; a layer that attends
    # to images is not run without them.
    if not crossing or min(crossing) < 1 or max(crossing) > layers - 2:
        raise CompileError(
            f"cross_attention_layers is {sorted(crossing)}, must lie between 1 and {layers - 2}"
        )
    depth = int(required(vision, "num_hidden_layers"))
    taken = list(required(vision, "intermediate_layers_indices"))
    # In ascending order whatever the order of the list, hence of one meaning only when sorted.
    if taken != sorted(set(taken)) or not all(0 <= index <= depth for index in taken):
        raise CompileError(
            f"intermediate_layers_indices is {taken}, must ascend and lie between 0 and {depth}"
        )
    width = int(required(vision, "hidden_size")) * (1 + len(taken))
    refuse_unless(vision, "vision_output_dim", width)
    _check_tiles(vision)


def _check_tiles(vision: Mapping[str, Any]) -> None:
    most, size = int(required(vision, "max_num_tiles")), int(required(vision, "image_size"))
    shapes = [tuple(shape) for shape in required(vision, "supported_aspect_ratios")]
    wanted = [(w, h) for w in range(1, most + 1) for h in range(1, most // w + 1)]
    if shapes != wanted:
        raise CompileError(f"supported_aspect_ratios is {shapes}, must be {wanted}")
    if size % int(required(vision, "patch_size")):
        raise CompileError(
            f"image_size is {size}, must be a multiple of patch_size {vision['patch_size']}"
        )


def _crossing(config: Mapping[str, Any]) -> frozenset[int]:
    return frozenset(required(config["text_config"], "cross_attention_layers"))


def converter_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The nested configurations name the dtype too; the caller's is for all."""
    inner = {
        key: {name: value for name, value in config[key].items() if name not in _DTYPES}
        for key in ("text_config", "vision_config")
    }
    return {**config, **inner}


_DTYPES = ("dtype", "torch_dtype")


def tensors(config: Mapping[str, Any]) -> dict[str, tuple[Rows, ...]]:
    names = [
        f"{_TEXT}.model.embed_tokens.weight",
        f"{_TEXT}.model.norm.weight",
        f"{_TEXT}.lm_head.weight",
        "multi_modal_projector.weight",
        "multi_modal_projector.bias",
    ]
    crossing = _crossing(config)
    for layer in range(int(config["text_config"]["num_hidden_layers"])):
        kind = "cross_attn" if layer in crossing else "self_attn"
        parts = [f"{kind}.{part}.weight" for part in _ATTENTION]
        parts += [f"{part}.weight" for part in (*_MLP, "input_layernorm")]
        parts += ["post_attention_layernorm.weight"]
        if layer in crossing:
            parts += [f"{kind}.q_norm.weight", f"{kind}.k_norm.weight"]
            parts += ["cross_attn_attn_gate", "cross_attn_mlp_gate"]
        names += [f"{_TEXT}.model.layers.{layer}.{part}" for part in parts]
    names += [f"{_VISION}.{name}" for name in _vision_tensors(config["vision_config"])]
    return {name: (Rows(name),) for name in names}


def _vision_tensors(vision: Mapping[str, Any]) -> list[str]:
    names = ["patch_embedding.weight", "class_embedding"]
    for table in ("pre_tile_positional_embedding", "post_tile_positional_embedding"):
        names += [f"{table}.embedding.weight", f"{table}.gate"]
    gated = "gated_positional_embedding"
    names += [f"{gated}.{part}" for part in ("embedding", "gate", "tile_embedding.weight")]
    kinds = ("weight", "bias")
    names += [f"layernorm_{place}.{kind}" for place in ("pre", "post") for kind in kinds]
    parts = [f"self_attn.{part}.weight" for part in _ATTENTION]
    for part in ("mlp.fc1", "mlp.fc2", "input_layernorm", "post_attention_layernorm"):
        parts += [f"{part}.{kind}" for kind in kinds]
    for layer in range(int(vision["num_hidden_layers"])):
        names += [f"transformer.layers.{layer}.{part}" for part in parts]
    for layer in range(int(required(vision, "num_global_layers"))):
        gates = ("gate_attn", "gate_ffn")
        names += [f"global_transformer.layers.{layer}.{part}" for part in (*parts, *gates)]
    return names


MLLAMA = Family(
    architecture="MllamaForConditionalGeneration",
    length_key="text_config.max_position_embeddings",
    check=check,
    config=converter_config,
    tensors=tensors,
    buffers=r"rotary_emb\.inv_freq$",
    driver=Path(__file__).resolve().parent / "mllama_driver.py",
    images=True,
)
