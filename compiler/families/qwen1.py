"""Qwen v1 (1.8B to 72B): qwen2 under other names.

c_attn holds the rows of q, k and v; `w2` is the MLP's gate and `w1` its up projection; the
configured intermediate_size counts both. Beyond `seq_length` the model scales its rotary base and
its queries with the prompt's length, which a compiled net cannot.
"""

from collections.abc import Mapping
from typing import Any

from compiler.families.family import Family, refuse_unless, required
from compiler.families.tensor_file import Rows

_OUTER = {
    "transformer.wte": "model.embed_tokens",
    "transformer.ln_f": "model.norm",
    "lm_head": "lm_head",
}
_INNER = {
    "ln_1": "input_layernorm",
    "attn.c_proj": "self_attn.o_proj",
    "ln_2": "post_attention_layernorm",
    "mlp.w2": "mlp.gate_proj",
    "mlp.w1": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
}


def check(config: Mapping[str, Any]) -> None:
    refuse_unless(config, "no_bias", True)
    refuse_unless(config, "rotary_pct", 1.0)
    refuse_unless(config, "tie_word_embeddings", False)
    refuse_unless(config, "quantization_config", None)


def _attention_width(config: Mapping[str, Any]) -> int:
    return int(required(config, "kv_channels")) * int(required(config, "num_attention_heads"))


def qwen2_config(config: Mapping[str, Any]) -> dict[str, Any]:
    heads = required(config, "num_attention_heads")
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": required(config, "hidden_size"),
        "intermediate_size": int(required(config, "intermediate_size")) // 2,
        "num_hidden_layers": required(config, "num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": required(config, "kv_channels"),
        "hidden_act": "silu",
        "rms_norm_eps": required(config, "layer_norm_epsilon"),
        "rope_theta": required(config, "rotary_emb_base"),
        "tie_word_embeddings": False,
        "vocab_size": required(config, "vocab_size"),
    }


def tensors(config: Mapping[str, Any]) -> dict[str, tuple[Rows, ...]]:
    width = _attention_width(config)
    made: dict[str, tuple[Rows, ...]] = {
        f"{old}.weight": (Rows(f"{new}.weight"),) for old, new in _OUTER.items()
    }
    for layer in range(int(required(config, "num_hidden_layers"))):
        source, target = f"transformer.h.{layer}.", f"model.layers.{layer}."
        for old, new in _INNER.items():
            made[f"{source}{old}.weight"] = (Rows(f"{target}{new}.weight"),)
        for kind in ("weight", "bias"):
            made[f"{source}attn.c_attn.{kind}"] = tuple(
                Rows(
                    f"{target}self_attn.{part}_proj.{kind}",
                    (range(third * width, (third + 1) * width),),
                )
                for third, part in enumerate("qkv")
            )
    return made


QWEN1 = Family(
    architecture="QWenLMHeadModel",
    length_key="seq_length",
    check=check,
    config=qwen2_config,
    tensors=tensors,
    buffers=r"\.rotary_emb\.inv_freq$|\.attn\.(masked_)?bias$",
)
