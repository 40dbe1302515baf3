"""The sizes of a decoder-only transformer, read from a Hugging Face config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compiler.errors import CompileError


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes in elements. `qkv_bias` and `qk_norm`: the attention has these weights. positions: rows
    of the position table of GPTBigCode's layers, which have biases and no gate; 0 for all others.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocab: int
    tied: bool
    qkv_bias: bool
    qk_norm: bool
    positions: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Architecture":
        """Raises CompileError for an architecture whose layer is not gated-MLP attention."""
        model_type = config.get("model_type")
        if model_type == "qwen":
            return cls._qwen1(config)
        if model_type == "chatglm":
            return cls._chatglm(config)
        if model_type == "gpt_bigcode":
            return cls._gpt_bigcode(config)
        if model_type not in ("llama", "qwen2", "qwen3", "baichuan"):
            raise CompileError(f"no estimate for model_type {model_type!r}")
        heads = int(config["num_attention_heads"])
        return cls(
            layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
            inner=int(config["intermediate_size"]),
            vocab=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=model_type == "qwen2" or bool(config.get("attention_bias", False)),
            qk_norm=model_type == "qwen3",
        )

    @classmethod
    def _qwen1(cls, config: Mapping[str, Any]) -> "Architecture":
        heads = int(config["num_attention_heads"])
        return cls(
            layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            heads=heads,
            kv_heads=heads,
            head_dim=int(config["hidden_size"]) // heads,
            # The config counts gate and up together.
            inner=int(config["intermediate_size"]) // 2,
            vocab=int(config["vocab_size"]),
            tied=False,
            qkv_bias=True,
            qk_norm=False,
        )

    @classmethod
    def _chatglm(cls, config: Mapping[str, Any]) -> "Architecture":
        return cls(
            layers=int(config["num_layers"]),
            hidden=int(config["hidden_size"]),
            heads=int(config["num_attention_heads"]),
            kv_heads=int(config["multi_query_group_num"]),
            head_dim=int(config["kv_channels"]),
            inner=int(config["ffn_hidden_size"]),
            vocab=int(config["padded_vocab_size"]),
            tied=False,
            qkv_bias=bool(config.get("add_qkv_bias", False)),
            qk_norm=False,
        )

    @classmethod
    def _gpt_bigcode(cls, config: Mapping[str, Any]) -> "Architecture":
        hidden, heads = int(config["n_embd"]), int(config["n_head"])
        return cls(
            layers=int(config["n_layer"]),
            hidden=hidden,
            heads=heads,
            kv_heads=1,
            head_dim=hidden // heads,
            inner=int(config.get("n_inner") or 4 * hidden),
            vocab=int(config["vocab_size"]),
            tied=True,
            qkv_bias=True,
            qk_norm=False,
            positions=int(config["n_positions"]),
        )

    @property
    def kv_elements_per_token(self) -> int:
        """Of all layers, keys and values."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    def layer_config(self, vocab: int) -> dict[str, Any]:
        """A config of the same layer for the converter, with `vocab` rows of embedding.

        Two layers, so that the first, which is the one compiled, is not the last (which holds the
        final norm).
        """
        plain = "gpt_bigcode" if self.positions else "qwen2"
        return {
            "model_type": "qwen3" if self.qk_norm else plain,
            "torch_dtype": "float16",
            "num_hidden_layers": 2,
            "hidden_size": self.hidden,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.inner,
            "vocab_size": vocab,
            "hidden_act": "gelu" if self.positions else "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
        }

    def layer_shapes(self, vocab: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the first layer's weights, the embedding and the head, as the converter names
        them."""
        attention, mlp = "model.layers.0.self_attn.", "model.layers.0.mlp."
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (vocab, self.hidden),
            "lm_head.weight": (vocab, self.hidden),
            "model.norm.weight": (self.hidden,),
            "model.layers.0.input_layernorm.weight": (self.hidden,),
            "model.layers.0.post_attention_layernorm.weight": (self.hidden,),
            attention + "q_proj.weight": (query, self.hidden),
            attention + "k_proj.weight": (key, self.hidden),
            attention + "v_proj.weight": (key, self.hidden),
            attention + "o_proj.weight": (self.hidden, query),
            mlp + "up_proj.weight": (self.inner, self.hidden),
            mlp + "down_proj.weight": (self.hidden, self.inner),
        }
        if self.qkv_bias:
            widths = {"q": query, "k": key, "v": key}
            shapes |= {f"{attention}{n}_proj.bias": (w,) for n, w in widths.items()}
        if self.positions:
            shapes |= self._plain_shapes(shapes)
        else:
            shapes[mlp + "gate_proj.weight"] = (self.inner, self.hidden)
        if self.qk_norm:
            shapes |= {f"{attention}{n}_norm.weight": (self.head_dim,) for n in ("q", "k")}
        return shapes

    def _plain_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """The table of positions, and a bias for every norm and projection of the layer."""
        layer = {name: shape for name, shape in shapes.items() if name.startswith("model.layers.")}
        biases = {
            name.replace(".weight", ".bias"): shape[:1]
            for name, shape in layer.items()
            if name.endswith(".weight")
        }
        return {**biases, "model.embed_positions.weight": (self.positions, self.hidden)}
