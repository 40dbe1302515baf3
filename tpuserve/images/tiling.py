"""How an image is laid on a canvas of square tiles (Llama 3.2 Vision).

Source of the rules: the model's image processor in Hugging Face transformers 4.45
(`MllamaImageProcessor`): of all canvases of at most `max_tiles` tiles take the one that needs the
least enlargement, else the one that needs the least reduction, and of equal ones the smallest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tiling:
    """A canvas of rows x columns tiles, with the image at width x height in its upper left corner.

    aspect_ratio_id: 1-based index of (rows, columns) among the canvases in their order.
    """

    rows: int
    columns: int
    width: int
    height: int
    aspect_ratio_id: int

    @property
    def tiles(self) -> int:
        return self.rows * self.columns


def canvases(max_tiles: int) -> list[tuple[int, int]]:
    """(rows, columns) of every canvas, in the order in which aspect ratio ids count them."""
    return [
        (rows, columns)
        for rows in range(1, max_tiles + 1)
        for columns in range(1, max_tiles + 1)
        if rows * columns <= max_tiles
    ]


def tiling(width: int, height: int, *, tile_size: int, max_tiles: int) -> Tiling:
    """Where an image of width x height pixels, both at least 1, goes."""
    rows, columns = _best_canvas(width, height, tile_size=tile_size, max_tiles=max_tiles)
    # A small image is enlarged to one tile's side at most, a large one shrunk to the canvas.
    target_width = min(max(width, tile_size), columns * tile_size)
    target_height = min(max(height, tile_size), rows * tile_size)
    scale_x, scale_y = target_width / width, target_height / height
    if scale_x < scale_y:
        fitted = target_width, min(math.floor(height * scale_x) or 1, target_height)
    else:
        fitted = min(math.floor(width * scale_y) or 1, target_width), target_height
    return Tiling(
        rows=rows,
        columns=columns,
        width=fitted[0],
        height=fitted[1],
        aspect_ratio_id=canvases(max_tiles).index((rows, columns)) + 1,
    )


def _best_canvas(width: int, height: int, *, tile_size: int, max_tiles: int) -> tuple[int, int]:
    scales = {
        (rows, columns): min(rows * tile_size / height, columns * tile_size / width)
        for rows, columns in canvases(max_tiles)
    }
    enlarging = [scale for scale in scales.values() if scale >= 1]
    chosen = min(enlarging) if enlarging else max(scales.values())
    fitting = [canvas for canvas, scale in scales.items() if scale == chosen]
    return min(fitting, key=lambda canvas: canvas[0] * canvas[1])
