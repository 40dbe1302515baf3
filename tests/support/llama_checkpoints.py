"""Small random checkpoints of the families that the vendor's converter builds itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.support.tiny_checkpoints import (
    HEAD_DIM,
    HEADS,
    HIDDEN,
    INNER,
    LAYERS,
    LIMIT,
    VOCAB,
    TinyCheckpoint,
    draw,
)

_KV_HEADS = 2


def qwen2(*, vocab: int = VOCAB, limit: int = LIMIT) -> TinyCheckpoint:
    """As Qwen2.5-7B: biases on q, k and v, grouped heads, a head of its own."""
    config = {
        **_common(vocab, limit),
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "max_window_layers": LAYERS,
        "rope_theta": 1000000.0,
        "sliding_window": 131072,
        "use_mrope": False,
        "use_sliding_window": False,
    }
    return _checkpoint(config, bias=True)


def qwen3(*, vocab: int = VOCAB, limit: int = LIMIT) -> TinyCheckpoint:
    """As Qwen3-4B: normed heads wider together than the states, no biases, tied embeddings."""
    config = {
        **_common(vocab, limit),
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "head_dim": 2 * HEAD_DIM,
        "max_window_layers": LAYERS,
        "model_type": "qwen3",
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
    }
    return _checkpoint(config, head_norms=True)


def llama3(*, vocab: int = VOCAB, limit: int = LIMIT) -> TinyCheckpoint:
    """As Llama-3.2-1B: stretched rotary frequencies and tied embeddings.

    The old context is small, so that all three ranges of frequencies are met within LIMIT tokens.
    """
    config = {
        **_common(vocab, limit),
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "head_dim": HEAD_DIM,
        "mlp_bias": False,
        "model_type": "llama",
        "pretraining_tp": 1,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": LIMIT // 2,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
    }
    return _checkpoint(config)


def _common(vocab: int, limit: int) -> dict[str, Any]:
    return {
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INNER,
        "max_position_embeddings": limit,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": _KV_HEADS,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": vocab,
    }


def _checkpoint(
    config: Mapping[str, Any], *, bias: bool = False, head_norms: bool = False
) -> TinyCheckpoint:
    dim, vocab = config.get("head_dim", HEAD_DIM), config["vocab_size"]
    widths = {"q": HEADS * dim, "k": _KV_HEADS * dim, "v": _KV_HEADS * dim}
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, HIDDEN)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        attention = prefix + "self_attn."
        shapes |= {
            prefix + "input_layernorm.weight": (HIDDEN,),
            prefix + "post_attention_layernorm.weight": (HIDDEN,),
            prefix + "mlp.gate_proj.weight": (INNER, HIDDEN),
            prefix + "mlp.up_proj.weight": (INNER, HIDDEN),
            prefix + "mlp.down_proj.weight": (HIDDEN, INNER),
            attention + "o_proj.weight": (HIDDEN, widths["q"]),
        }
        for part, width in widths.items():
            shapes[f"{attention}{part}_proj.weight"] = (width, HIDDEN)
            if bias:
                shapes[f"{attention}{part}_proj.bias"] = (width,)
        if head_norms:
            shapes |= {f"{attention}{part}_norm.weight": (dim,) for part in "qk"}
    return TinyCheckpoint(config, draw(shapes))
