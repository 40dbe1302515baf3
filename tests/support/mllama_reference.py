"""Llama-3.2-Vision in float64 from its own tensors, with the conventions of transformers 4.45.2.

Entry i of `intermediate_layers_indices` is the input of vision layer i. Rows that are masked (tiles
that are not there, rows that fill the patches up to a multiple of 8) are masked for each other
only. A token that sees no tile attends to all of them and has its MLP masked instead. Without
images the layers that attend to them do not exist.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Weights = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Picture:
    """pixels: [tiles, channels, side, side]. position: index of its token in the text."""

    pixels: Array
    aspect_ratio_id: int
    position: int

    @property
    def tiles(self) -> int:
        return len(self.pixels)


def image_states(config: Mapping[str, Any], weights: Weights, picture: Picture) -> Array:
    """What text attends to: [max_num_tiles, patches, hidden of the text]."""
    vision = config["vision_config"]
    w = below(weights, "vision_model.")
    most, width = vision["max_num_tiles"], vision["hidden_size"]
    ratio = picture.aspect_ratio_id
    pixels = np.zeros((most, *picture.pixels.shape[1:]))
    pixels[: picture.tiles] = picture.pixels
    x = patches(pixels, w["patch_embedding.weight"])
    x = x + tile_rows(w, "pre_tile_positional_embedding", ratio, most)
    x = np.concatenate([np.broadcast_to(w["class_embedding"], (most, 1, width)), x], axis=1)
    rows = x.shape[1]
    gate = np.tanh(w["gated_positional_embedding.gate"])
    x = x + (1 - gate) * w["gated_positional_embedding.embedding"]
    tile_table = w["gated_positional_embedding.tile_embedding.weight"]
    x = x + gate * tile_table[ratio].reshape(most, rows, width)
    x = layer_norm(x, below(w, "layernorm_pre."), 1e-5)
    padded = -(-rows // 8) * 8
    x = np.pad(x, ((0, 0), (0, padded - rows), (0, 0)))
    hidden = np.ones((most, padded))
    hidden[: picture.tiles, :rows] = 0
    mask = np.where(np.outer(hidden, hidden) > 0, -np.inf, 0.0)
    x = x.reshape(-1, width)
    inputs = []
    for layer in range(vision["num_hidden_layers"]):
        inputs.append(x)
        x = vision_layer(vision, below(w, f"transformer.layers.{layer}."), x, mask)
    inputs.append(x)
    x = layer_norm(x, below(w, "layernorm_post."), 1e-5).reshape(most, padded, width)
    x = x + tile_rows(w, "post_tile_positional_embedding", ratio, most)
    x = x.reshape(-1, width)
    for layer in range(vision["num_global_layers"]):
        x = vision_layer(vision, below(w, f"global_transformer.layers.{layer}."), x, mask)
    taken = np.stack([inputs[index] for index in vision["intermediate_layers_indices"]], axis=-1)
    x = np.concatenate([x, taken.reshape(len(x), -1)], axis=1)
    x = x.reshape(most, padded, -1)[:, :rows]
    projector = below(weights, "multi_modal_projector.")
    return np.asarray(x @ projector["weight"].T + projector["bias"])


def patches(pixels: Array, kernel: Array) -> Array:
    """[tiles, patches, width]: a convolution that moves by its own side."""
    tiles, channels, side, _ = pixels.shape
    step = kernel.shape[-1]
    count = side // step
    cut = pixels.reshape(tiles, channels, count, step, count, step).transpose(0, 2, 4, 1, 3, 5)
    return np.asarray(cut.reshape(tiles, count * count, -1) @ kernel.reshape(len(kernel), -1).T)


def tile_rows(w: Weights, table: str, ratio: int, tiles: int) -> Array:
    rows = w[f"{table}.embedding.weight"][ratio].reshape(tiles, 1, -1)
    return np.asarray(rows * np.tanh(w[f"{table}.gate"]))


def vision_layer(vision: Mapping[str, Any], w: Weights, x: Array, mask: Array) -> Array:
    eps, heads = vision["norm_eps"], vision["attention_heads"]
    normed = layer_norm(x, below(w, "input_layernorm."), eps)
    q, k, v = (normed @ w[f"self_attn.{part}_proj.weight"].T for part in "qkv")
    q, k, v = (part.reshape(len(x), heads, -1) for part in (q, k, v))
    mixed = attend(q, k, v, mask) @ w["self_attn.o_proj.weight"].T
    x = x + np.tanh(w["gate_attn"]) * mixed if "gate_attn" in w else x + mixed
    normed = layer_norm(x, below(w, "post_attention_layernorm."), eps)
    inner = gelu(normed @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"])
    inner = inner @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"]
    return np.asarray(x + np.tanh(w["gate_ffn"]) * inner if "gate_ffn" in w else x + inner)


def logits(
    config: Mapping[str, Any],
    weights: Weights,
    ids: Sequence[int] | Array,
    pictures: Sequence[Picture] = (),
) -> Array:
    """[n, vocab] for ids [n]."""
    text = config["text_config"]
    w = below(weights, "language_model.")
    eps = text["rms_norm_eps"]
    x = w["model.embed_tokens.weight"][np.asarray(ids)]
    angles = rotary_angles(text, len(x))
    causal = np.triu(np.full((len(x), len(x)), -np.inf), k=1)
    seen = [image_states(config, weights, picture) for picture in pictures]
    images = np.concatenate([states.reshape(-1, states.shape[-1]) for states in seen or [x[:0]]])
    image_mask, row_mask = cross_mask(config, len(x), pictures)
    for layer in range(text["num_hidden_layers"]):
        inner = below(w, f"model.layers.{layer}.")
        crossing = layer in text["cross_attention_layers"]
        if crossing and not pictures:
            continue
        normed = rms(x, inner["input_layernorm.weight"], eps)
        if crossing:
            mixed = cross_attention(text, below(inner, "cross_attn."), normed, images, image_mask)
            x = x + np.tanh(inner["cross_attn_attn_gate"]) * mixed
        else:
            x = x + self_attention(text, below(inner, "self_attn."), normed, angles, causal)
        normed = rms(x, inner["post_attention_layernorm.weight"], eps)
        gate = normed @ inner["mlp.gate_proj.weight"].T
        result = gate / (1 + np.exp(-gate)) * (normed @ inner["mlp.up_proj.weight"].T)
        result = result @ inner["mlp.down_proj.weight"].T
        if crossing:
            result = np.tanh(inner["cross_attn_mlp_gate"]) * row_mask * result
        x = x + result
    return np.asarray(rms(x, w["model.norm.weight"], eps) @ w["lm_head.weight"].T)


def cross_mask(
    config: Mapping[str, Any], tokens: int, pictures: Sequence[Picture]
) -> tuple[Array, Array]:
    """[tokens, images × tiles × patches] to add, and [tokens, 1]: 0 for rows that see nothing."""
    vision = config["vision_config"]
    most = vision["max_num_tiles"]
    rows = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    visible = np.zeros((tokens, len(pictures), most))
    ends = [tokens] * len(pictures)
    for index in reversed(range(len(pictures) - 1)):
        begin, following = pictures[index].position, pictures[index + 1].position
        # Neighbouring images are seen together by the text behind them.
        ends[index] = ends[index + 1] if following == begin + 1 else following
    for index, picture in enumerate(pictures):
        visible[picture.position : ends[index], index, : picture.tiles] = 1
    columns = np.repeat(visible, rows, axis=2).reshape(tokens, -1)
    row_mask = columns.any(axis=1, keepdims=True).astype(float)
    return np.where((columns == 0) & (row_mask > 0), -np.inf, 0.0), row_mask


def self_attention(
    text: Mapping[str, Any], w: Weights, x: Array, angles: Array, mask: Array
) -> Array:
    dim = text["hidden_size"] // text["num_attention_heads"]
    q, k, v = ((x @ w[f"{part}_proj.weight"].T).reshape(len(x), -1, dim) for part in "qkv")
    return np.asarray(attend(rotate(q, angles), rotate(k, angles), v, mask) @ w["o_proj.weight"].T)


def cross_attention(
    text: Mapping[str, Any], w: Weights, x: Array, images: Array, mask: Array
) -> Array:
    dim, eps = text["hidden_size"] // text["num_attention_heads"], text["rms_norm_eps"]
    q = (x @ w["q_proj.weight"].T).reshape(len(x), -1, dim)
    k, v = ((images @ w[f"{part}_proj.weight"].T).reshape(len(images), -1, dim) for part in "kv")
    q, k = rms(q, w["q_norm.weight"], eps), rms(k, w["k_norm.weight"], eps)
    return np.asarray(attend(q, k, v, mask) @ w["o_proj.weight"].T)


def attend(q: Array, k: Array, v: Array, mask: Array) -> Array:
    """q [m, heads, dim], k and v [n, kv_heads, dim], mask [m, n]: [m, heads × dim]."""
    groups = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, groups, axis=1), np.repeat(v, groups, axis=1)
    scores = np.einsum("mhd,nhd->hmn", q, k) / math.sqrt(q.shape[-1]) + mask
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)
    return np.asarray(np.einsum("hmn,nhd->mhd", scores, v).reshape(len(q), -1))


def rotary_angles(text: Mapping[str, Any], tokens: int) -> Array:
    """[tokens, dim / 2], with Llama 3's scaling of long waves."""
    dim = text["hidden_size"] // text["num_attention_heads"]
    frequencies = text["rope_theta"] ** -(np.arange(0, dim, 2) / dim)
    scaling = text["rope_scaling"]
    factor, original = scaling["factor"], scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    waves = original * frequencies / (2 * np.pi)
    smooth = np.clip((waves - low) / (high - low), 0, 1)
    frequencies = frequencies * ((1 - smooth) / factor + smooth)
    return np.asarray(np.outer(np.arange(tokens), frequencies))


def rotate(x: Array, angles: Array) -> Array:
    first, second = np.split(x, 2, axis=-1)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def rms(x: Array, weight: Array, eps: float) -> Array:
    return np.asarray(x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight)


def layer_norm(x: Array, w: Weights, eps: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)
    return np.asarray(scaled * w["weight"] + w["bias"])


def gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))))


def below(weights: Weights, prefix: str) -> dict[str, Array]:
    return {name[len(prefix) :]: w for name, w in weights.items() if name.startswith(prefix)}
