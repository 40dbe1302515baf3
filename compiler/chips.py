"""Which nets go to which chip when a model's layers are spread over several."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.errors import CompileError
from tpuserve.bmodel import reader

MAX_CHIPS = 8
_LAYER = re.compile(r"(?:block(?:_[a-z]+)*)_(\d+)(?:_\d+)?")


@dataclass(frozen=True, slots=True)
class NetFile:
    """A compiled net; `weights` are its blocks of weights by hash, in bytes."""

    path: Path
    weights: dict[str, int]

    @classmethod
    def read(cls, path: Path) -> "NetFile":
        variants = [variant for net in reader.read(path).nets for variant in net.variants]
        found = [variant.weights for variant in variants if variant.weights]
        return cls(path, {block.sha256: block.size_bytes for block in found})


def layer_of(net: str) -> int | None:
    """The layer that a net belongs to; None for the embedding and the heads."""
    match = _LAYER.fullmatch(net)
    return int(match[1]) if match else None


def group(nets: Sequence[NetFile], chips: int) -> list[list[Path]]:
    """The nets of each chip: layers that follow each other, the embedding with the first and the
    heads with the last. The chip with the most bytes of weights has as few as can be. The order of
    `nets` is kept. Raises CompileError when there are fewer layers than chips."""
    if chips == 1:
        return [[net.path for net in nets]]
    layers = 1 + max((layer_of(net.path.stem) or 0 for net in nets), default=0)
    if layers < chips:
        raise CompileError(f"num-device is {chips}: the model has only {layers} layers")
    by_layer: list[dict[str, int]] = [{} for _ in range(layers)]
    for net in nets:
        by_layer[_nearest_layer(net.path.stem, layers)].update(net.weights)
    ends = _balance([sum(blocks.values()) for blocks in by_layer], chips)
    groups: list[list[Path]] = [[] for _ in range(chips)]
    for net in nets:
        layer = _nearest_layer(net.path.stem, layers)
        groups[next(chip for chip, end in enumerate(ends) if layer < end)].append(net.path)
    return groups


def _nearest_layer(net: str, layers: int) -> int:
    layer = layer_of(net)
    if layer is not None:
        return layer
    # Heads may have a file for each shape variant, with its rows behind the name.
    return layers - 1 if "_head" in net else 0


def _balance(sizes: Sequence[int], chips: int) -> list[int]:
    """Ends of `chips` non-empty runs of `sizes` whose largest sum is the least."""
    # best[i]: that sum for the first i sizes in the runs so far, and the ends of these runs.
    best = {i: (sum(sizes[:i]), [i]) for i in range(1, len(sizes) + 1)}
    for runs in range(2, chips + 1):
        best = {
            i: min((max(best[j][0], sum(sizes[j:i])), [*best[j][1], i]) for j in range(runs - 1, i))
            for i in range(runs, len(sizes) + 1)
        }
    return best[len(sizes)][1]
