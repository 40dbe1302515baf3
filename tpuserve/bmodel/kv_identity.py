"""Whether KV rows that one bmodel made are those that another one would make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from tpuserve.bmodel.language import describe
from tpuserve.bmodel.model import Bmodel, Net

_PrefillNet: TypeAlias = tuple[str, bool, tuple[tuple[int, ...], ...], int]


@dataclass(frozen=True, slots=True)
class KvIdentity:
    """weights: SHA-256 of the embedding's and of each layer's. layout: layers, KV heads, head size
    and type of a row. prefill: the compiler's version, and of each prefill net its name, whether it
    is dynamic, its shapes and the size of its instructions.
    """

    weights: tuple[str, ...]
    layout: tuple[int, int, int, str]
    prefill: tuple[str, tuple[_PrefillNet, ...]]

    def same_numbers(self, other: KvIdentity) -> bool:
        """Rows agree, but perhaps for their last bits."""
        return (self.weights, self.layout) == (other.weights, other.layout)

    def same_bits(self, other: KvIdentity) -> bool:
        """Equal nets make them: the context length and the decode nets do not matter."""
        return self == other


def kv_identity(bmodel: Bmodel) -> KvIdentity | None:
    """None where the file does not tell all that rows depend on."""
    language = describe(bmodel)
    if language is None or language.vision is not None:
        # Rows depend on images too, and those are not exchanged.
        return None
    layers = [bmodel.net(f"block_cache_{layer}") for layer in range(language.layers)]
    weights = [_weights_sha256(net) for net in (bmodel.net("embedding"), *layers)]
    if not all(weights):
        return None
    prefill = [
        net
        for net in bmodel.nets
        if net.name.startswith("block_") and not net.name.startswith("block_cache_")
    ]
    return KvIdentity(
        tuple(weights),
        (language.layers, language.kv_heads, language.head_dim, language.dtype),
        (bmodel.version, tuple(_prefill_net(net) for net in prefill)),
    )


def _weights_sha256(net: Net | None) -> str:
    weights = None if net is None else net.variants[0].weights
    return "" if weights is None else weights.sha256


def _prefill_net(net: Net) -> _PrefillNet:
    variant = net.variants[0]
    shapes = tuple(tensor.shape for tensor in variant.inputs)
    return net.name, net.dynamic, shapes, variant.instruction_bytes
