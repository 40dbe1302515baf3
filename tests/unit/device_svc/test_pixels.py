"""Pixels against the image processor's arithmetic, worked out by hand on flat images."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from device_svc.pixels import pixels_of
from tpuserve.images.reading import ImageError
from tpuserve.images.rules import ImageRules

RULES = ImageRules(
    token_id=9,
    tile_size=8,
    max_tiles=4,
    resample=2,
    rescale=1 / 255,
    mean=(0.5, 0.25, 0.0),
    std=(0.5, 0.25, 1.0),
)


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_one_tile_is_normalised_and_padded_with_black() -> None:
    # 4 x 2 is enlarged to 8 x 4; the lower half of the tile stays black.
    pixels = pixels_of(encoded(Image.new("RGB", (4, 2), (255, 0, 51))), RULES)
    assert (pixels.tiles.shape, pixels.aspect_ratio_id) == ((1, 3, 8, 8), 1)
    assert pixels.tiles.dtype == np.float32
    upper, lower = pixels.tiles[0, :, :4], pixels.tiles[0, :, 4:]
    np.testing.assert_allclose(upper, np.broadcast_to([[[1.0]], [[-1.0]], [[0.2]]], upper.shape))
    np.testing.assert_allclose(lower, np.broadcast_to([[[-1.0]], [[-1.0]], [[0.0]]], lower.shape))


def test_tiles_are_those_of_the_canvas_row_by_row() -> None:
    shades = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    image = Image.new("RGB", (16, 16))
    for number, shade in enumerate(shades):
        image.paste(
            shade, (number % 2 * 8, number // 2 * 8, number % 2 * 8 + 8, number // 2 * 8 + 8)
        )
    pixels = pixels_of(encoded(image), RULES)
    assert pixels.aspect_ratio_id == 6
    for tile, shade in zip(pixels.tiles, shades, strict=True):
        raw = tile * np.array(RULES.std)[:, None, None] + np.array(RULES.mean)[:, None, None]
        np.testing.assert_allclose(raw[:, 1:7, 1:7].reshape(3, -1).T * 255, [shade] * 36, atol=1e-3)


def test_a_broken_image_is_refused() -> None:
    with pytest.raises(ImageError, match="is none of"):
        pixels_of(b"nothing", RULES)
