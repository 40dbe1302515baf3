"""Bounds of what a client may send; a request must fit into one message between services."""

from typing import Final

from tpuserve.errors import InvalidArgument

MAX_IMAGE_BYTES: Final = 8 * 1024 * 1024
MAX_IMAGES_BYTES: Final = 12 * 1024 * 1024
MAX_PIXELS: Final = 40_000_000


def check_total(size_bytes: int) -> None:
    """Of all images of a request. Raises InvalidArgument naming both sizes."""
    if size_bytes > MAX_IMAGES_BYTES:
        raise InvalidArgument(
            f"the images have {size_bytes} bytes together, at most {MAX_IMAGES_BYTES}",
            field="messages",
        )
