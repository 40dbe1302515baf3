"""Where images land on canvases of 560-pixel tiles."""

from __future__ import annotations

import pytest

from tpuserve.images.tiling import Tiling, canvases, tiling


def test_aspect_ratio_ids_count_rows_then_columns() -> None:
    assert canvases(4) == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)]


# Worked out by hand from the rules in the module's docstring.
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((560, 560), Tiling(1, 1, 560, 560, 1)),
        # Small: enlarged so that its longer side fills one tile.
        ((100, 50), Tiling(1, 1, 560, 280, 1)),
        ((1, 1), Tiling(1, 1, 560, 560, 1)),
        # Fits 1 x 2 as it is.
        ((1000, 500), Tiling(1, 2, 1000, 500, 2)),
        ((1600, 300), Tiling(1, 3, 1600, 300, 3)),
        ((2240, 560), Tiling(1, 4, 2240, 560, 4)),
        ((500, 1000), Tiling(2, 1, 500, 1000, 5)),
        ((700, 700), Tiling(2, 2, 700, 700, 6)),
        ((300, 1600), Tiling(3, 1, 300, 1600, 7)),
        ((560, 2240), Tiling(4, 1, 560, 2240, 8)),
        # Too large for any canvas: shrunk to the smallest that shrinks it least.
        ((4000, 4000), Tiling(2, 2, 1120, 1120, 6)),
        ((6000, 3000), Tiling(1, 2, 1120, 560, 2)),
        ((10000, 1000), Tiling(1, 4, 2240, 224, 4)),
        ((20000, 1), Tiling(1, 4, 2240, 1, 4)),
    ],
)
def test_images_land_on_the_canvas_that_changes_them_least(
    size: tuple[int, int], expected: Tiling
) -> None:
    assert tiling(*size, tile_size=560, max_tiles=4) == expected
