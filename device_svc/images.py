"""Images of a request, ready for the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class VisionShape:
    """What a model that looks at images takes.

    max_images: of one request. max_tiles: of one image. tile_tokens: keys that a tile gives each
    layer. image_size: pixels of a tile's side.
    """

    max_images: int
    max_tiles: int
    tile_tokens: int
    image_size: int
    channels: int

    @property
    def ratios(self) -> tuple[tuple[int, int], ...]:
        """Columns and rows of tiles of each aspect ratio; the first has the id 1."""
        most = self.max_tiles
        return tuple((w, h) for w in range(1, most + 1) for h in range(1, most // w + 1))


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """pixels: float32 [tiles, channels, image_size, image_size], the canvas's tiles row by row,
    normalised. aspect_ratio_id: from 1. position: index of the image's token in the prompt.
    digest: equal for equal pixels in equal shape, whatever the position.
    """

    pixels: NDArray[np.float32]
    aspect_ratio_id: int
    position: int
    digest: str

    @classmethod
    def of(cls, pixels: NDArray[np.float32], aspect_ratio_id: int, position: int) -> Image:
        pixels = np.ascontiguousarray(pixels)
        digest = hashlib.sha256(f"{pixels.shape} {aspect_ratio_id} ".encode())
        digest.update(pixels.data)
        return cls(pixels, aspect_ratio_id, position, digest.hexdigest())


def digests(images: Sequence[Image]) -> tuple[str, ...]:
    """What rows of a text with these images depend on, beside its tokens."""
    return tuple(image.digest for image in images)


def check_images(images: Sequence[Image], vision: VisionShape | None, prompt_tokens: int) -> None:
    """Raises ValueError naming the value and the limit."""
    if vision is None:
        if images:
            raise ValueError(f"{len(images)} images are given, the model does not look at images")
        return
    if len(images) > vision.max_images:
        raise ValueError(f"{len(images)} images are given, the model takes {vision.max_images}")
    lowest = 0
    for number, image in enumerate(images):
        _check_pixels(f"images[{number}]", image, vision)
        if not lowest <= image.position < prompt_tokens:
            raise ValueError(
                f"images[{number}] is at token {image.position}, must be in "
                f"[{lowest}, {prompt_tokens})"
            )
        lowest = image.position + 1


def _check_pixels(name: str, image: Image, vision: VisionShape) -> None:
    ratios = vision.ratios
    if not 1 <= image.aspect_ratio_id <= len(ratios):
        raise ValueError(
            f"{name} has aspect ratio {image.aspect_ratio_id}, must be in [1, {len(ratios)}]"
        )
    columns, rows = ratios[image.aspect_ratio_id - 1]
    wanted = (columns * rows, vision.channels, vision.image_size, vision.image_size)
    pixels = image.pixels
    if pixels.shape != wanted or pixels.dtype != np.float32:
        raise ValueError(
            f"{name} has pixels {pixels.dtype} {list(pixels.shape)}, must be float32 {list(wanted)}"
        )
    if not np.isfinite(pixels).all():
        raise ValueError(f"{name} has pixels that are no finite numbers")
