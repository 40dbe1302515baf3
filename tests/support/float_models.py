"""Published architectures in float64, from their own tensors: what a converted model must compute.

Every function takes ids [n] and returns logits [n, vocab].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ids = NDArray[np.int32]
Weights = Mapping[str, Array]


def qwen1(config: Mapping[str, Any], weights: Weights, ids: Ids) -> Array:
    """QWenLMHeadModel up to `seq_length` tokens."""
    eps, heads = config["layer_norm_epsilon"], config["num_attention_heads"]
    angles = _angles(len(ids), config["kv_channels"], config["rotary_emb_base"])
    x = weights["transformer.wte.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        w = _below(weights, f"transformer.h.{layer}.")
        normed = _rms(x, w["ln_1.weight"], eps)
        fused = normed @ w["attn.c_attn.weight"].T + w["attn.c_attn.bias"]
        q, k, v = (part.reshape(len(ids), heads, -1) for part in np.split(fused, 3, axis=1))
        mixed = _attend(_rotate_halves(q, angles), _rotate_halves(k, angles), v)
        x = x + mixed @ w["attn.c_proj.weight"].T
        normed = _rms(x, w["ln_2.weight"], eps)
        inner = (normed @ w["mlp.w1.weight"].T) * _silu(normed @ w["mlp.w2.weight"].T)
        x = x + inner @ w["mlp.c_proj.weight"].T
    return np.asarray(
        _rms(x, weights["transformer.ln_f.weight"], eps) @ weights["lm_head.weight"].T
    )


def chatglm3(config: Mapping[str, Any], weights: Weights, ids: Ids) -> Array:
    """ChatGLMModel with grouped keys and values."""
    eps, dim = config["layernorm_epsilon"], config["kv_channels"]
    heads, groups = config["num_attention_heads"], config["multi_query_group_num"]
    angles = _angles(len(ids), dim // 2, 10000 * config.get("rope_ratio", 1.0))
    x = weights["transformer.embedding.word_embeddings.weight"][ids]
    for layer in range(config["num_layers"]):
        w = _below(weights, f"transformer.encoder.layers.{layer}.")
        qkv = "self_attention.query_key_value."
        normed = _rms(x, w["input_layernorm.weight"], eps)
        fused = (normed @ w[qkv + "weight"].T + w[qkv + "bias"]).reshape(len(ids), -1, dim)
        q, k, v = np.split(fused, [heads, heads + groups], axis=1)
        mixed = _attend(_rotate_pairs(q, angles), _rotate_pairs(k, angles), v)
        x = x + mixed @ w["self_attention.dense.weight"].T
        normed = _rms(x, w["post_attention_layernorm.weight"], eps)
        gate, up = np.split(normed @ w["mlp.dense_h_to_4h.weight"].T, 2, axis=1)
        x = x + (_silu(gate) * up) @ w["mlp.dense_4h_to_h.weight"].T
    normed = _rms(x, weights["transformer.encoder.final_layernorm.weight"], eps)
    return np.asarray(normed @ weights["transformer.output_layer.weight"].T)


def gpt_bigcode(config: Mapping[str, Any], weights: Weights, ids: Ids) -> Array:
    """GPTBigCodeForCausalLM with one head of keys and values and the exact GELU."""
    eps, heads = config["layer_norm_epsilon"], config["n_head"]
    hidden, tokens = config["n_embd"], len(ids)
    dim = hidden // heads
    x = weights["transformer.wte.weight"][ids] + weights["transformer.wpe.weight"][:tokens]
    for layer in range(config["n_layer"]):
        w = _below(weights, f"transformer.h.{layer}.")
        fused = _affine(_layer_norm(x, w, "ln_1", eps), w, "attn.c_attn")
        q, k, v = np.split(fused, [hidden, hidden + dim], axis=1)
        mixed = _attend(q.reshape(tokens, heads, dim), k[:, None], v[:, None])
        x = x + _affine(mixed, w, "attn.c_proj")
        inner = _gelu(_affine(_layer_norm(x, w, "ln_2", eps), w, "mlp.c_fc"))
        x = x + _affine(inner, w, "mlp.c_proj")
    normed = _layer_norm(x, weights, "transformer.ln_f", eps)
    return np.asarray(normed @ weights["transformer.wte.weight"].T)


def qwen2(config: Mapping[str, Any], weights: Weights, ids: Ids) -> Array:
    """Qwen2ForCausalLM, with `rope_parameters` of type "proportional" where the config has them;
    Qwen3ForCausalLM, whose heads are normed, and LlamaForCausalLM with or without "llama3"
    frequencies, where weights and config say so."""
    eps = config["rms_norm_eps"]
    dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    angles = scaled_angles(config, len(ids), dim)
    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        w = _below(weights, f"model.layers.{layer}.")
        normed = _rms(x, w["input_layernorm.weight"], eps)
        q, k, v = (
            (
                normed @ w[f"self_attn.{part}_proj.weight"].T
                + w.get(f"self_attn.{part}_proj.bias", 0)
            ).reshape(len(ids), -1, dim)
            for part in "qkv"
        )
        if "self_attn.q_norm.weight" in w:
            q = _rms(q, w["self_attn.q_norm.weight"], eps)
            k = _rms(k, w["self_attn.k_norm.weight"], eps)
        mixed = _attend(_rotate_halves(q, angles), _rotate_halves(k, angles), v)
        x = x + mixed @ w["self_attn.o_proj.weight"].T
        normed = _rms(x, w["post_attention_layernorm.weight"], eps)
        inner = _silu(normed @ w["mlp.gate_proj.weight"].T) * (normed @ w["mlp.up_proj.weight"].T)
        x = x + inner @ w["mlp.down_proj.weight"].T
    tied = config.get("tie_word_embeddings", False)
    head = weights["model.embed_tokens.weight" if tied else "lm_head.weight"]
    return np.asarray(_rms(x, weights["model.norm.weight"], eps) @ head.T)


def scaled_angles(config: Mapping[str, Any], tokens: int, dim: int) -> Array:
    """[tokens, dim / 2]; "llama3" is the rule of the Llama 3.1 model card's reference code: waves
    longer than the old context over `low_freq_factor` are stretched by `factor`, those shorter than
    it over `high_freq_factor` stay, and between them both are mixed by the number of turns."""
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10000.0)}
    frequencies = _angles(2, dim, rope["rope_theta"])[1]
    frequencies[int(rope.get("partial_rotary_factor", 1.0) * dim) // 2 :] = 0
    scaling = config.get("rope_scaling")
    if scaling:
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = scaling["original_max_position_embeddings"] * frequencies / (2 * np.pi)
        share = np.clip((turns - low) / (high - low), 0, 1)
        frequencies = frequencies * (share + (1 - share) / scaling["factor"])
    return np.outer(np.arange(tokens), frequencies)


def four_bits(weights: Weights, group: int = 64) -> dict[str, Array]:
    """The layers' matrices rounded to 16 levels between the extremes of each group of inputs."""
    rounded = dict(weights)
    for name, values in weights.items():
        if values.ndim != 2 or not any(part.isdigit() for part in name.split(".")):
            continue
        parts = values.reshape(len(values), -1, group)
        low = np.minimum(parts.min(axis=2, keepdims=True), 0)
        high = np.maximum(parts.max(axis=2, keepdims=True), 0)
        scale = (high - low) / 15
        zero = np.round(-low / scale)
        level = np.clip(np.round(parts / scale) + zero, 0, 15)
        rounded[name] = ((level - zero) * scale).reshape(values.shape)
    return rounded


def _below(weights: Weights, prefix: str) -> dict[str, Array]:
    return {name[len(prefix) :]: w for name, w in weights.items() if name.startswith(prefix)}


def _rms(x: Array, weight: Array, eps: float) -> Array:
    return np.asarray(x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight)


def _layer_norm(x: Array, weights: Weights, name: str, eps: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    return np.asarray(scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"])


def _affine(x: Array, weights: Weights, name: str) -> Array:
    return np.asarray(x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])


def _gelu(x: Array) -> Array:
    return np.asarray(x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2)


def _silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))


def _angles(tokens: int, dim: int, base: float) -> Array:
    """[tokens, dim / 2]"""
    return np.outer(np.arange(tokens), float(base) ** (-np.arange(0, dim, 2) / dim))


def _rotate_halves(x: Array, angles: Array) -> Array:
    """x [tokens, heads, dim]: element i turns with element i + dim / 2."""
    first, second = np.split(x, 2, axis=2)
    turned = (first + 1j * second) * np.exp(1j * angles)[:, None]
    return np.concatenate([turned.real, turned.imag], axis=2)


def _rotate_pairs(x: Array, angles: Array) -> Array:
    """x [tokens, heads, dim]: element 2i turns with 2i + 1 in the first half, the rest stays."""
    first, rest = np.split(x, 2, axis=2)
    turned = (first[..., ::2] + 1j * first[..., 1::2]) * np.exp(1j * angles)[:, None]
    pairs = np.stack([turned.real, turned.imag], axis=3).reshape(first.shape)
    return np.concatenate([pairs, rest], axis=2)


def _attend(q: Array, k: Array, v: Array) -> Array:
    """Causal attention; q [tokens, heads, dim], k and v [tokens, groups, dim]."""
    tokens, heads, dim = q.shape
    k, v = (np.repeat(part, heads // part.shape[1], axis=1) for part in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(dim)
    scores[:, np.triu(np.ones((tokens, tokens), bool), 1)] = -np.inf
    shares = np.exp(scores - scores.max(axis=2, keepdims=True))
    shares /= shares.sum(axis=2, keepdims=True)
    return np.asarray(np.einsum("hqk,khd->qhd", shares, v)).reshape(tokens, heads * dim)
