"""GPTBigCode (StarCoder, WizardCoder): LayerNorm, learned positions, one head of keys and values.

The form keeps the arithmetic and has the names of the other families, with q, k and v apart;
`gpt_bigcode_driver.py` builds the nets.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compiler.errors import CompileError
from compiler.families.family import Family, refuse_unless, required
from compiler.families.tensor_file import Rows

_ACTIVATIONS = ("gelu", "gelu_pytorch_tanh")
_INNER = {
    "ln_1": "input_layernorm",
    "attn.c_proj": "self_attn.o_proj",
    "ln_2": "post_attention_layernorm",
    "mlp.c_fc": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
}
_KINDS = ("weight", "bias")


def check(config: Mapping[str, Any]) -> None:
    refuse_unless(config, "multi_query", True)
    refuse_unless(config, "scale_attn_weights", True)
    refuse_unless(config, "quantization_config", None)
    if _activation(config) not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise CompileError(
            f"activation_function is {_activation(config)!r}, must be one of {known}"
        )


def _activation(config: Mapping[str, Any]) -> str:
    return str(config.get("activation_function", "gelu_pytorch_tanh"))


def _head_dim(config: Mapping[str, Any]) -> int:
    return int(required(config, "n_embd")) // int(required(config, "n_head"))


def _tied(config: Mapping[str, Any]) -> bool:
    return bool(config.get("tie_word_embeddings", True))


def converter_config(config: Mapping[str, Any]) -> dict[str, Any]:
    hidden = int(required(config, "n_embd"))
    return {
        "architectures": ["GPTBigCodeForCausalLM"],
        "model_type": "gpt_bigcode",
        "hidden_size": hidden,
        "intermediate_size": config.get("n_inner") or 4 * hidden,
        "num_hidden_layers": required(config, "n_layer"),
        "num_attention_heads": required(config, "n_head"),
        "num_key_value_heads": 1,
        "head_dim": _head_dim(config),
        "hidden_act": _activation(config),
        "rms_norm_eps": config.get("layer_norm_epsilon", 1e-5),
        "tie_word_embeddings": _tied(config),
        "vocab_size": required(config, "vocab_size"),
    }


def tensors(config: Mapping[str, Any]) -> dict[str, tuple[Rows, ...]]:
    hidden, dim = int(required(config, "n_embd")), _head_dim(config)
    made: dict[str, tuple[Rows, ...]] = {
        "transformer.wte.weight": (Rows("model.embed_tokens.weight"),),
        "transformer.wpe.weight": (Rows("model.embed_positions.weight"),),
        **{f"transformer.ln_f.{kind}": (Rows(f"model.norm.{kind}"),) for kind in _KINDS},
    }
    if not _tied(config):
        made["lm_head.weight"] = (Rows("lm_head.weight"),)
    attention = {
        "q": range(hidden),
        "k": range(hidden, hidden + dim),
        "v": range(hidden + dim, hidden + 2 * dim),
    }
    for layer in range(int(required(config, "n_layer"))):
        source, target = f"transformer.h.{layer}.", f"model.layers.{layer}."
        for kind in _KINDS:
            for old, new in _INNER.items():
                made[f"{source}{old}.{kind}"] = (Rows(f"{target}{new}.{kind}"),)
            made[f"{source}attn.c_attn.{kind}"] = tuple(
                Rows(f"{target}self_attn.{part}_proj.{kind}", (rows,))
                for part, rows in attention.items()
            )
    return made


GPT_BIGCODE = Family(
    architecture="GPTBigCodeForCausalLM",
    length_key="n_positions",
    check=check,
    config=converter_config,
    tensors=tensors,
    # A head that is tied may be stored a second time.
    buffers=r"\.attn\.(masked_)?bias$|^lm_head\.weight$",
    driver=Path(__file__).resolve().parent / "gpt_bigcode_driver.py",
)
