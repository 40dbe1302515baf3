"""ChatGLM3 (ChatGLM2 and GLM-4 share its layout) as qwen2 with half of each head rotated.

The model rotates neighbouring pairs (2i, 2i + 1) of a head's first half and leaves the other half
alone; the converter rotates pairs (i, i + head_dim / 2) of the whole head. Permuting the rows of q
and k equally changes no product of theirs, so the rotated pairs move to where the converter looks
for them and the rest gets the angle 0.
"""

from collections.abc import Mapping
from typing import Any

from compiler.errors import CompileError
from compiler.families.family import Family, refuse_unless, required
from compiler.families.tensor_file import Rows

_ROTARY_BASE = 10000.0
_OUTER = {
    "transformer.embedding.word_embeddings": "model.embed_tokens",
    "transformer.encoder.final_layernorm": "model.norm",
    "transformer.output_layer": "lm_head",
}
_INNER = {
    "input_layernorm": "input_layernorm",
    "self_attention.dense": "self_attn.o_proj",
    "post_attention_layernorm": "post_attention_layernorm",
    "mlp.dense_4h_to_h": "mlp.down_proj",
}


def check(config: Mapping[str, Any]) -> None:
    refuse_unless(config, "add_bias_linear", False)
    refuse_unless(config, "apply_residual_connection_post_layernorm", False)
    refuse_unless(config, "multi_query_attention", True)
    refuse_unless(config, "original_rope", True)
    refuse_unless(config, "post_layer_norm", True)
    refuse_unless(config, "rmsnorm", True)
    refuse_unless(config, "tie_word_embeddings", False)
    refuse_unless(config, "quantization_config", None)
    if int(config.get("quantization_bit") or 0):
        raise CompileError("the checkpoint is quantized: convert the float16 one")
    if int(required(config, "kv_channels")) % 4:
        raise CompileError(f"kv_channels is {config['kv_channels']}, must be a multiple of 4")


def qwen2_config(config: Mapping[str, Any]) -> dict[str, Any]:
    base = _ROTARY_BASE * float(config.get("rope_ratio", 1.0))
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": required(config, "hidden_size"),
        "intermediate_size": required(config, "ffn_hidden_size"),
        "num_hidden_layers": required(config, "num_layers"),
        "num_attention_heads": required(config, "num_attention_heads"),
        "num_key_value_heads": required(config, "multi_query_group_num"),
        "head_dim": required(config, "kv_channels"),
        "hidden_act": "silu",
        "rms_norm_eps": required(config, "layernorm_epsilon"),
        # Angle i of a head is t / theta^(2i / head_dim) here and t / base^(2i / (head_dim / 2)) in
        # the model, hence the square; `proportional` gives the rest of the head the angle 0.
        "rope_parameters": {
            "rope_type": "proportional",
            "rope_theta": base * base,
            "partial_rotary_factor": 0.5,
        },
        "tie_word_embeddings": False,
        "vocab_size": required(config, "padded_vocab_size"),
    }


def tensors(config: Mapping[str, Any]) -> dict[str, tuple[Rows, ...]]:
    inner = int(required(config, "ffn_hidden_size"))
    made: dict[str, tuple[Rows, ...]] = {
        f"{old}.weight": (Rows(f"{new}.weight"),) for old, new in _OUTER.items()
    }
    kinds = ("weight", "bias") if required(config, "add_qkv_bias") else ("weight",)
    for layer in range(int(required(config, "num_layers"))):
        source, target = f"transformer.encoder.layers.{layer}.", f"model.layers.{layer}."
        for old, new in _INNER.items():
            made[f"{source}{old}.weight"] = (Rows(f"{target}{new}.weight"),)
        made[f"{source}mlp.dense_h_to_4h.weight"] = (
            Rows(f"{target}mlp.gate_proj.weight", (range(inner),)),
            Rows(f"{target}mlp.up_proj.weight", (range(inner, 2 * inner),)),
        )
        for kind in kinds:
            made[f"{source}self_attention.query_key_value.{kind}"] = tuple(
                Rows(f"{target}self_attn.{part}_proj.{kind}", rows)
                for part, rows in _attention_rows(config).items()
            )
    return made


def _attention_rows(config: Mapping[str, Any]) -> dict[str, tuple[range, ...]]:
    """Rows of query_key_value that make q, k and v."""
    dim = int(required(config, "kv_channels"))
    heads = int(required(config, "num_attention_heads"))
    groups = int(required(config, "multi_query_group_num"))
    starts = {"q": 0, "k": heads * dim, "v": (heads + groups) * dim}
    counts = {"q": heads, "k": groups}
    rows = {
        part: tuple(
            piece
            for head in range(count)
            for piece in _half_split_order(starts[part] + head * dim, dim)
        )
        for part, count in counts.items()
    }
    return {**rows, "v": (range(starts["v"], starts["v"] + groups * dim),)}


def _half_split_order(start: int, dim: int) -> tuple[range, ...]:
    """Old rows of one head, in the order in which pair i is (i, i + dim / 2)."""
    rotated, quarter = dim // 2, dim // 4
    first, rest = start, start + rotated
    return (
        range(first, first + rotated, 2),
        range(rest, rest + quarter),
        range(first + 1, first + rotated, 2),
        range(rest + quarter, start + dim),
    )


CHATGLM = Family(
    architecture="ChatGLMModel",
    length_key="seq_length",
    check=check,
    config=qwen2_config,
    tensors=tensors,
    buffers=r"\.rotary_pos_emb\.inv_freq$",
)
