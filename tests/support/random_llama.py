"""Writes small Llama checkpoints with random weights, for what a compiler test needs to be large
or deep."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def write_llama(
    directory: Path,
    *,
    layers: int = 1,
    hidden: int = 64,
    inner: int = 128,
    heads: int = 2,
    kv_heads: int = 2,
    vocab: int = 128,
) -> Path:
    """Untied, float16; returns `directory`."""
    kv_width = hidden // heads * kv_heads
    config = {
        "model_type": "llama",
        "torch_dtype": "float16",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text("{}")
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, hidden),
        "lm_head.weight": (vocab, hidden),
        "model.norm.weight": (hidden,),
    }
    for number in range(layers):
        layer = f"model.layers.{number}."
        shapes |= {
            layer + "input_layernorm.weight": (hidden,),
            layer + "post_attention_layernorm.weight": (hidden,),
            layer + "self_attn.q_proj.weight": (hidden, hidden),
            layer + "self_attn.k_proj.weight": (kv_width, hidden),
            layer + "self_attn.v_proj.weight": (kv_width, hidden),
            layer + "self_attn.o_proj.weight": (hidden, hidden),
            layer + "mlp.gate_proj.weight": (inner, hidden),
            layer + "mlp.up_proj.weight": (inner, hidden),
            layer + "mlp.down_proj.weight": (hidden, inner),
        }
    random = np.random.default_rng(0)
    weights = {
        name: (random.standard_normal(shape, dtype=np.float32) * 0.05).astype(np.float16)
        for name, shape in shapes.items()
    }
    save_file(weights, directory / "model.safetensors")
    return directory
