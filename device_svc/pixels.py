"""Encoded images to the numbers that a vision tower takes.

Source: the image processor of Llama 3.2 Vision in Hugging Face transformers 4.45: resize, pad with
black to the canvas, rescale, normalise, cut into tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tpuserve.images.reading import read_image
from tpuserve.images.rules import ImageRules
from tpuserve.images.tiling import tiling


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """`tiles`: float32 [tiles, 3, size, size], those of the canvas row by row."""

    tiles: NDArray[np.float32]
    aspect_ratio_id: int


def pixels_of(data: bytes, rules: ImageRules) -> Pixels:
    """Raises tpuserve.images.reading.ImageError for bytes that are no image that is taken."""
    image = read_image(data)
    size = rules.tile_size
    place = tiling(image.width, image.height, tile_size=size, max_tiles=rules.max_tiles)
    resized = image.resize((place.width, place.height), Image.Resampling(rules.resample))
    canvas = np.zeros((place.rows * size, place.columns * size, 3), np.float32)
    canvas[: place.height, : place.width] = np.asarray(resized)
    canvas *= np.float32(rules.rescale)
    canvas -= np.array(rules.mean, np.float32)
    canvas /= np.array(rules.std, np.float32)
    cut = canvas.reshape(place.rows, size, place.columns, size, 3).transpose(0, 2, 4, 1, 3)
    tiles = np.ascontiguousarray(cut.reshape(place.tiles, 3, size, size))
    return Pixels(tiles, place.aspect_ratio_id)
