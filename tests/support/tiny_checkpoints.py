"""Small random checkpoints with the config keys and tensor names of published architectures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

Array = NDArray[np.float64]

HIDDEN, HEADS, HEAD_DIM, INNER, LAYERS, VOCAB, LIMIT = 128, 4, 32, 192, 2, 320, 128


@dataclass(frozen=True, slots=True)
class TinyCheckpoint:
    """`weights` are the stored float16 values."""

    config: Mapping[str, Any]
    weights: Mapping[str, Array]

    def write(self, directory: Path) -> Path:
        """As two files, so that no reader can count on one."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(self.config))
        names = sorted(self.weights)
        for part, chosen in enumerate((names[::2], names[1::2])):
            tensors = {name: self.weights[name].astype(np.float16) for name in chosen}
            save_file(tensors, directory / f"model-{part + 1:05}-of-00002.safetensors")
        return directory


def qwen1(*, vocab: int = VOCAB, limit: int = LIMIT) -> TinyCheckpoint:
    config = {
        "architectures": ["QWenLMHeadModel"],
        "attn_dropout_prob": 0.0,
        "bf16": False,
        "emb_dropout_prob": 0.0,
        "fp16": False,
        "fp32": False,
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": 2 * INNER,
        "kv_channels": HEAD_DIM,
        "layer_norm_epsilon": 1e-6,
        "max_position_embeddings": 4 * limit,
        "model_type": "qwen",
        "no_bias": True,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "onnx_safe": None,
        "rotary_emb_base": 10000,
        "rotary_pct": 1.0,
        "scale_attn_weights": True,
        "seq_length": limit,
        "tie_word_embeddings": False,
        "tokenizer_class": "QWenTokenizer",
        "use_cache": True,
        "use_dynamic_ntk": True,
        "use_flash_attn": "auto",
        "use_logn_attn": True,
        "vocab_size": vocab,
    }
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (vocab, HIDDEN),
        "transformer.ln_f.weight": (HIDDEN,),
        "lm_head.weight": (vocab, HIDDEN),
    }
    for layer in range(LAYERS):
        prefix = f"transformer.h.{layer}."
        shapes |= {
            prefix + "ln_1.weight": (HIDDEN,),
            prefix + "ln_2.weight": (HIDDEN,),
            prefix + "attn.c_attn.weight": (3 * HIDDEN, HIDDEN),
            prefix + "attn.c_attn.bias": (3 * HIDDEN,),
            prefix + "attn.c_proj.weight": (HIDDEN, HIDDEN),
            prefix + "mlp.w1.weight": (INNER, HIDDEN),
            prefix + "mlp.w2.weight": (INNER, HIDDEN),
            prefix + "mlp.c_proj.weight": (HIDDEN, INNER),
        }
    return TinyCheckpoint(config, draw(shapes))


def chatglm3(
    rope_ratio: float | None = None, *, vocab: int = VOCAB, limit: int = LIMIT
) -> TinyCheckpoint:
    """Two groups of keys and values; the published 6B model has no `rope_ratio`, its 32k one 50."""
    groups = 2
    config = {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "ffn_hidden_size": INNER,
        "fp32_residual_connection": False,
        "hidden_dropout": 0.0,
        "hidden_size": HIDDEN,
        "kv_channels": HEAD_DIM,
        "layernorm_epsilon": 1e-5,
        "multi_query_attention": True,
        "multi_query_group_num": groups,
        "num_attention_heads": HEADS,
        "num_layers": LAYERS,
        "original_rope": True,
        "padded_vocab_size": vocab,
        "post_layer_norm": True,
        "rmsnorm": True,
        "seq_length": limit,
        "use_cache": True,
        "torch_dtype": "float16",
        "tie_word_embeddings": False,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **({} if rope_ratio is None else {"rope_ratio": rope_ratio}),
    }
    encoder = "transformer.encoder."
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.embedding.word_embeddings.weight": (vocab, HIDDEN),
        encoder + "final_layernorm.weight": (HIDDEN,),
        "transformer.output_layer.weight": (vocab, HIDDEN),
        "transformer.rotary_pos_emb.inv_freq": (HEAD_DIM // 4,),
    }
    qkv = (HEADS + 2 * groups) * HEAD_DIM
    for layer in range(LAYERS):
        prefix = f"{encoder}layers.{layer}."
        shapes |= {
            prefix + "input_layernorm.weight": (HIDDEN,),
            prefix + "post_attention_layernorm.weight": (HIDDEN,),
            prefix + "self_attention.query_key_value.weight": (qkv, HIDDEN),
            prefix + "self_attention.query_key_value.bias": (qkv,),
            prefix + "self_attention.dense.weight": (HIDDEN, HIDDEN),
            prefix + "mlp.dense_h_to_4h.weight": (2 * INNER, HIDDEN),
            prefix + "mlp.dense_4h_to_h.weight": (HIDDEN, INNER),
        }
    return TinyCheckpoint(config, draw(shapes))


def gpt_bigcode(*, vocab: int = VOCAB, limit: int = LIMIT) -> TinyCheckpoint:
    """`n_inner` is null, as where it is four times the width; the head is stored though tied."""
    config = {
        "activation_function": "gelu",
        "architectures": ["GPTBigCodeForCausalLM"],
        "attention_softmax_in_fp32": True,
        "attn_pdrop": 0.1,
        "bos_token_id": 0,
        "embd_pdrop": 0.1,
        "eos_token_id": 0,
        "inference_runner": 0,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-5,
        "max_batch_size": None,
        "max_sequence_length": None,
        "model_type": "gpt_bigcode",
        "multi_query": True,
        "n_embd": HIDDEN,
        "n_head": HEADS,
        "n_inner": None,
        "n_layer": LAYERS,
        "n_positions": limit,
        "pad_key_length": True,
        "pre_allocate_kv_cache": False,
        "resid_pdrop": 0.1,
        "scale_attention_softmax_in_fp32": True,
        "scale_attn_weights": True,
        "torch_dtype": "float16",
        "use_cache": True,
        "validate_runner_input": True,
        "vocab_size": vocab,
    }
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (vocab, HIDDEN),
        "transformer.wpe.weight": (limit, HIDDEN),
        "transformer.ln_f.weight": (HIDDEN,),
        "transformer.ln_f.bias": (HIDDEN,),
    }
    for layer in range(LAYERS):
        prefix = f"transformer.h.{layer}."
        projections = {
            "attn.c_attn": (HIDDEN + 2 * HEAD_DIM, HIDDEN),
            "attn.c_proj": (HIDDEN, HIDDEN),
            "mlp.c_fc": (4 * HIDDEN, HIDDEN),
            "mlp.c_proj": (HIDDEN, 4 * HIDDEN),
        }
        for name, shape in projections.items():
            shapes |= {f"{prefix}{name}.weight": shape, f"{prefix}{name}.bias": shape[:1]}
        for name in ("ln_1", "ln_2"):
            shapes |= {f"{prefix}{name}.{kind}": (HIDDEN,) for kind in ("weight", "bias")}
    weights = draw(shapes)
    return TinyCheckpoint(config, {**weights, "lm_head.weight": weights["transformer.wte.weight"]})


def draw(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Projections that keep the variance, so that attention prefers some tokens to others."""
    source = np.random.default_rng(11)
    weights = {}
    for name, shape in shapes.items():
        values = source.normal(size=shape)
        if len(shape) == 2:
            values *= shape[1] ** -0.5
        elif name.endswith("bias"):
            values *= 0.5
        else:
            values = 1 + 0.2 * values
        weights[name] = values.astype(np.float16).astype(np.float64)
    return weights
