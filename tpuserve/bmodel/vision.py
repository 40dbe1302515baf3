"""What a bmodel's nets take of images, found from their names and shapes."""

from __future__ import annotations

from dataclasses import dataclass

from tpuserve.bmodel.model import Bmodel, Variant

_KEYS = "cross_kv_"


@dataclass(frozen=True, slots=True)
class VisionModel:
    """max_images: of one sequence. max_tiles: of one image. tile_tokens: keys that a tile gives
    each layer. image_size: pixels of a tile's side. layers: those that attend to images, beside the
    ones that attend to text. image_bytes_per_slot: their keys and values of all images.
    state_bytes: what the image net gives for one image. mask_bytes: what a context needs to tell
    the rows of a launch what they see.
    """

    max_images: int
    max_tiles: int
    tile_tokens: int
    image_size: int
    layers: int
    image_bytes_per_slot: int
    state_bytes: int
    mask_bytes: int


def describe_vision(bmodel: Bmodel) -> VisionModel | None:
    """None for a model that reads text only."""
    vit = bmodel.net("vit")
    layers = image_layers(bmodel)
    first = None if not layers else bmodel.net(f"block_{min(layers)}")
    if vit is None or first is None:
        return None
    states = vit.variants[0].outputs[0]
    tiles, tile_tokens, _ = states.shape
    prefill = first.variants[0]
    image_bytes = 0
    widest = prefill.inputs[2].size_bytes
    for layer in layers:
        decode = _decode(bmodel, layer)
        image_bytes += sum(tensor.size_bytes for tensor in decode.inputs[3:5])
        widest = max(widest, decode.inputs[2].size_bytes)
    return VisionModel(
        max_images=prefill.inputs[3].shape[1] // (tiles * tile_tokens),
        max_tiles=tiles,
        tile_tokens=tile_tokens,
        image_size=vit.variants[0].inputs[0].shape[-1],
        layers=len(layers),
        image_bytes_per_slot=image_bytes,
        state_bytes=states.size_bytes,
        mask_bytes=widest,
    )


def image_layers(bmodel: Bmodel) -> frozenset[int]:
    """Numbers of the layers that attend to images: those with a net for an image's keys."""
    names = (net.name.removeprefix(_KEYS) for net in bmodel.nets if net.name.startswith(_KEYS))
    return frozenset(int(number) for number in names if number.isdigit())


def _decode(bmodel: Bmodel, layer: int) -> Variant:
    """In its largest shape, which is the first."""
    net = bmodel.net(f"block_cache_{layer}")
    if net is None:
        raise ValueError(f"net {_KEYS}{layer} has no block_cache_{layer} beside it")
    return net.variants[0]
