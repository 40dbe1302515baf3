"""What the vendor's converter builds itself: Llama, Qwen2 and Qwen3, and what it would get wrong.

It fills in a default for what it does not know, so that a setting must be refused here.
"""

from collections.abc import Mapping
from typing import Any, Final

from compiler.errors import CompileError
from compiler.families import packed
from compiler.families.family import refuse_unless, required

LLAMA_TYPES: Final = ("llama", "qwen2", "qwen3")

# Tensors that may be there: buffers, and a head that is tied and stored all the same.
BUFFERS: Final = rf"\.rotary_emb\.inv_freq$|^lm_head\.weight$|{packed.BUFFERS}"

_ROPE_TYPES: Final = ("default", "linear", "llama3", "yarn")


def check(config: Mapping[str, Any], seq_tokens: int, quantize: str) -> None:
    """Raises CompileError for settings that the converter ignores or does not know."""
    if packed.is_packed(config):
        packed.check(config, quantize)
    refuse_unless(config, "hidden_act", "silu")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in _ROPE_TYPES:
        # The converter takes the default for it, without a word.
        known = ", ".join(_ROPE_TYPES)
        raise CompileError(f"rope type is {kind!r}, must be one of {known}")
    window = config.get("sliding_window")
    windows = config.get("use_sliding_window", config["model_type"] == "llama" and bool(window))
    if windows and window and int(window) < seq_tokens:
        raise CompileError(
            f"seq is {seq_tokens}, must be at most {window}: beyond the sliding_window of the "
            "model its attention is another one"
        )


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every weight's shape, by name. Raises CompileError when the config lacks a key."""
    hidden, inner = int(required(config, "hidden_size")), int(required(config, "intermediate_size"))
    heads = int(required(config, "num_attention_heads"))
    dim = int(config.get("head_dim") or hidden // heads)
    key_value = int(config.get("num_key_value_heads") or heads) * dim
    vocab = int(required(config, "vocab_size"))
    made: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, hidden),
        "model.norm.weight": (hidden,),
    }
    if not config.get("tie_word_embeddings", False):
        made["lm_head.weight"] = (vocab, hidden)
    linear = {
        "self_attn.q_proj": (heads * dim, hidden),
        "self_attn.k_proj": (key_value, hidden),
        "self_attn.v_proj": (key_value, hidden),
        "self_attn.o_proj": (hidden, heads * dim),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    biased = _biased(config, list(linear))
    for layer in range(int(required(config, "num_hidden_layers"))):
        prefix = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            made[f"{prefix}{name}.weight"] = (hidden,)
        for name, shape in linear.items():
            if packed.is_packed(config):
                made |= packed.shapes(config, f"{prefix}{name}", *shape)
            else:
                made[f"{prefix}{name}.weight"] = shape
            if name in biased:
                made[f"{prefix}{name}.bias"] = shape[:1]
        if config["model_type"] == "qwen3":
            for part in "qk":
                made[f"{prefix}self_attn.{part}_norm.weight"] = (dim,)
    return made


def _biased(config: Mapping[str, Any], linear: list[str]) -> set[str]:
    attention, mlp = linear[:4], linear[4:]
    if config["model_type"] == "qwen2":
        return set(attention[:3])
    names = attention if config.get("attention_bias") else []
    return {*names, *(mlp if config.get("mlp_bias") else [])}
