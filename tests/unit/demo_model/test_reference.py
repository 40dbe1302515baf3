"""The numpy reference against itself and against attention written out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.golden.reference import Array, KvState, Reference

CONFIG: dict[str, object] = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 16,
    "vocab_size": 11,
    "rms_norm_eps": 1e-6,
    "rope_theta": 100.0,
    "tie_word_embeddings": True,
}


@pytest.fixture
def reference() -> Reference:
    rng = np.random.default_rng(0)

    def random(*shape: int) -> Array:
        return (rng.standard_normal(shape) * 0.5).astype(np.float32)

    weights = {
        "model.embed_tokens.weight": random(11, 16),
        "model.norm.weight": random(16) + np.float32(1),
    }
    for layer in range(2):
        name = f"model.layers.{layer}."
        for projection, rows in (("q", 16), ("k", 8), ("v", 8)):
            weights[f"{name}self_attn.{projection}_proj.weight"] = random(rows, 16)
            weights[f"{name}self_attn.{projection}_proj.bias"] = random(rows)
        weights[name + "self_attn.o_proj.weight"] = random(16, 16)
        for projection in ("gate", "up"):
            weights[f"{name}mlp.{projection}_proj.weight"] = random(24, 16)
        weights[name + "mlp.down_proj.weight"] = random(16, 24)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{name}{norm}.weight"] = random(16) + np.float32(1)
    return Reference(CONFIG, weights)


def test_pieces_give_the_logits_of_the_whole(reference: Reference) -> None:
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    whole = reference.forward(ids)
    state = KvState()
    pieces = [reference.forward(part, state) for part in (ids[:3], ids[3:4], ids[4:])]
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-5)
    assert state.length == len(ids)


def test_later_tokens_change_nothing_before_them(reference: Reference) -> None:
    first, second = reference.forward([1, 2, 3, 4]), reference.forward([1, 2, 3, 9])
    np.testing.assert_array_equal(first[:3], second[:3])
    assert np.abs(first[3] - second[3]).max() > 0.01


def test_order_matters(reference: Reference) -> None:
    """Without rotary embedding the last of these logits would not depend on the order before it."""
    first, second = reference.forward([1, 2, 3]), reference.forward([2, 1, 3])
    assert np.abs(first[2] - second[2]).max() > 0.001


def test_greedy_stops_before_the_stop_token(reference: Reference) -> None:
    free = reference.greedy([1, 2], 5, frozenset())
    assert len(free) == 5
    stop = free[2]
    assert reference.greedy([1, 2], 5, frozenset({stop})) == free[: free.index(stop)]
