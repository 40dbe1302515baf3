"""Qwen2 in numpy float32: the reference that bmodels are compared with.

Independent of the serving code and of torch. Formulas: RMSNorm, rotary embedding on half-split
heads,
grouped-query attention and SwiGLU, as the Qwen2 architecture defines them.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

_STORED: dict[str, Any] = {"F16": "<f2", "F32": "<f4"}


def read_safetensors(path: Path) -> dict[str, Array]:
    """All tensors of a safetensors file (F16 or F32) as float32.

    Format: u64 little-endian header length, JSON {name: {dtype, shape, data_offsets}}, then the
    bytes.
    """
    content = path.read_bytes()
    data_start = 8 + int.from_bytes(content[:8], "little")
    entries = json.loads(content[8:data_start])
    tensors = {}
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        start, end = (data_start + offset for offset in entry["data_offsets"])
        stored = np.frombuffer(content[start:end], dtype=_STORED[entry["dtype"]])
        tensors[name] = stored.reshape(entry["shape"]).astype(np.float32)
    return tensors


@dataclass(slots=True)
class KvState:
    """Keys and values of one sequence, per layer [length, kv_heads, head_dim], grown by
    `Reference.forward`."""

    keys: list[Array] = field(default_factory=list)
    values: list[Array] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.keys[0]) if self.keys else 0


class Reference:
    """A Qwen2 checkpoint: `config` is the content of config.json, `weights` have Hugging Face
    names."""

    def __init__(self, config: dict[str, object], weights: dict[str, Array]) -> None:
        self._weights = weights
        self.layers = _int(config, "num_hidden_layers")
        self.heads = _int(config, "num_attention_heads")
        self.kv_heads = _int(config, "num_key_value_heads")
        self.head_dim = _int(config, "hidden_size") // self.heads
        self.vocab_size = _int(config, "vocab_size")
        self._eps = np.float32(str(config["rms_norm_eps"]))
        self._rope_theta = float(str(config["rope_theta"]))
        tied = bool(config["tie_word_embeddings"])
        self._head = weights["model.embed_tokens.weight" if tied else "lm_head.weight"]

    @classmethod
    def load(cls, config_path: Path, weights_path: Path) -> "Reference":
        return cls(
            json.loads(config_path.read_text(encoding="utf-8")), read_safetensors(weights_path)
        )

    def forward(
        self,
        ids: list[int],
        state: KvState | None = None,
        *,
        hidden: list[Array] | None = None,
    ) -> Array:
        """Logits [len(ids), vocab] float32 at every position of `ids`, which follow what `state`
        holds.

        `state` is extended by the keys and values of `ids`; without one the ids start a sequence.
        `hidden` gets what each layer puts out, [len(ids), hidden size], the last after the norm.
        """
        state = KvState() if state is None else state
        if not state.keys:
            empty = np.zeros((0, self.kv_heads, self.head_dim), np.float32)
            state.keys, state.values = [empty] * self.layers, [empty] * self.layers
        positions = np.arange(state.length, state.length + len(ids))
        x = self._weights["model.embed_tokens.weight"][ids]
        for layer in range(self.layers):
            name = f"model.layers.{layer}."
            x = x + self._attention(
                layer, self._norm(x, name + "input_layernorm"), positions, state
            )
            x = x + self._feed_forward(
                name + "mlp.", self._norm(x, name + "post_attention_layernorm")
            )
            if hidden is not None:
                hidden.append(x if layer + 1 < self.layers else self._norm(x, "model.norm"))
        logits: Array = self._norm(x, "model.norm") @ self._head.T
        return logits

    def greedy(self, ids: list[int], max_tokens: int, stop_ids: frozenset[int]) -> list[int]:
        """The most likely continuation of `ids`, up to and without a stop id."""
        state = KvState()
        logits = self.forward(ids, state)[-1]
        out: list[int] = []
        while len(out) < max_tokens:
            token = int(np.argmax(logits))
            if token in stop_ids:
                break
            out.append(token)
            logits = self.forward([token], state)[-1]
        return out

    def _attention(
        self, layer: int, x: Array, positions: NDArray[np.int64], state: KvState
    ) -> Array:
        name = f"model.layers.{layer}.self_attn."
        q = self._rotate(self._project(x, name + "q_proj", self.heads), positions)
        k = self._rotate(self._project(x, name + "k_proj", self.kv_heads), positions)
        state.keys[layer] = np.concatenate((state.keys[layer], k))
        v = self._project(x, name + "v_proj", self.kv_heads)
        state.values[layer] = np.concatenate((state.values[layer], v))
        group = self.heads // self.kv_heads
        keys = np.repeat(state.keys[layer], group, axis=1)
        values = np.repeat(state.values[layer], group, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, keys) / np.sqrt(np.float32(self.head_dim))
        hidden = np.arange(len(keys))[None, :] > positions[:, None]
        scores = np.where(hidden[None], np.float32(-np.inf), scores)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", weights, values).reshape(len(x), -1)
        out: Array = mixed @ self._weights[name + "o_proj.weight"].T
        return out

    def _project(self, x: Array, name: str, heads: int) -> Array:
        y: Array = x @ self._weights[name + ".weight"].T + self._weights[name + ".bias"]
        return y.reshape(len(x), heads, self.head_dim)

    def _rotate(self, x: Array, positions: NDArray[np.int64]) -> Array:
        """Rotary position embedding of x [length, heads, head_dim]."""
        half = self.head_dim // 2
        frequencies = self._rope_theta ** -(np.arange(half) * 2 / self.head_dim)
        angles = np.outer(positions, frequencies).astype(np.float32)[:, None, :]
        cos, sin = np.cos(angles), np.sin(angles)
        first, second = x[..., :half], x[..., half:]
        rotated = (first * cos - second * sin, second * cos + first * sin)
        return np.concatenate(rotated, axis=-1, dtype=np.float32)

    def _feed_forward(self, name: str, x: Array) -> Array:
        gate = x @ self._weights[name + "gate_proj.weight"].T
        up = x @ self._weights[name + "up_proj.weight"].T
        out: Array = (gate / (1 + np.exp(-gate)) * up) @ self._weights[name + "down_proj.weight"].T
        return out

    def _norm(self, x: Array, name: str) -> Array:
        scale = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self._eps)
        out: Array = x * scale * self._weights[name + ".weight"]
        return out


def _int(config: dict[str, object], key: str) -> int:
    return int(str(config[key]))
