"""Bounds of what a client may send; a request must fit into one message between services."""

from typing import Final

MAX_IMAGE_BYTES: Final = 8 * 1024 * 1024
MAX_IMAGES_BYTES: Final = 12 * 1024 * 1024
MAX_PIXELS: Final = 40_000_000
