"""The nets of bmodels of 2023 in today's form, as the engine sees them (engine/older_forms.h)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tpuserve.bmodel.model import Bmodel, Net, Tensor, Variant

_MODEL_NAMES: Final = ("qwen_", "glm_")
_DECODE: Final = "block_cache_"


def todays_form(bmodel: Bmodel) -> Bmodel:
    """Layers without the model's name in theirs; of ChatGLM's, [1, length, …] for [length, 1, …]
    and one new row of K and V for a window of them."""
    return replace(bmodel, nets=tuple(_turned(net) for net in bmodel.nets))


def puts_out_windows(bmodel: Bmodel) -> bool:
    """Whether decode nets give the whole K and V, moved by a row, and not the new row alone."""
    net = bmodel.net("glm_block_cache_0")
    return net is not None and net.variants[0].outputs[-1].shape[0] > 1


def given_io_bytes(net: Net) -> int:
    """Memory for inputs and outputs that the engine gives a decode net without any of its own."""
    if net.io_alone or _DECODE not in net.name:
        return 0
    variant = net.variants[0]
    return sum(tensor.size_bytes for tensor in (*variant.inputs, *variant.outputs))


def _turned(net: Net) -> Net:
    for prefix in _MODEL_NAMES:
        if net.name.startswith(f"{prefix}block_"):
            net = replace(net, name=net.name.removeprefix(prefix))
            break
    else:
        return net
    if prefix == "qwen_":
        return net
    return replace(net, variants=tuple(_turned_variant(net.name, each) for each in net.variants))


def _turned_variant(name: str, variant: Variant) -> Variant:
    inputs = tuple(_length_second(tensor) for tensor in variant.inputs)
    outputs = [_length_second(tensor) for tensor in variant.outputs]
    if name.startswith(_DECODE):
        outputs[1:3] = [replace(tensor, shape=(1, 1, *tensor.shape[2:])) for tensor in outputs[1:3]]
    return replace(variant, inputs=inputs, outputs=tuple(outputs))


def _length_second(tensor: Tensor) -> Tensor:
    if len(tensor.shape) < 3:
        return tensor
    first, second, *rest = tensor.shape
    return replace(tensor, shape=(second, first, *rest))
