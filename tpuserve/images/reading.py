"""Encoded images from strangers to upright RGB pixels, within bounds."""

from __future__ import annotations

import io
from typing import Final

from PIL import Image, ImageOps, UnidentifiedImageError

from tpuserve.images.limits import MAX_IMAGE_BYTES, MAX_PIXELS

_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF")
# Conversions that have one meaning. The others (CMYK, 16 bit grey, Lab …) depend on profiles or
# ranges that the file may not tell.
_PLAIN: Final = frozenset({"1", "L", "P", "RGB"})
_TRANSPARENT: Final = frozenset({"LA", "PA", "RGBA"})


class ImageError(ValueError):
    """The bytes are no image that is taken; the text says why and is for the client."""


def read_image(data: bytes) -> Image.Image:
    """The decoded image: mode RGB, turned upright as its EXIF data say, transparency on white.

    Raises ImageError naming the value and the limit.
    """
    check_size(len(data))
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_header(image)
            image.load()
            return _as_rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"is none of {', '.join(_FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"has more than {MAX_PIXELS} pixels") from None
    except Exception as error:
        # Decoders raise whatever a broken file leads them to.
        raise ImageError("is cut off or corrupt") from error


def check_size(size_bytes: int) -> None:
    if not 0 < size_bytes <= MAX_IMAGE_BYTES:
        raise ImageError(f"has {size_bytes} bytes; it must have 1 to {MAX_IMAGE_BYTES}")


def _check_header(image: Image.Image) -> None:
    """What can be refused before any pixel is decoded."""
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise ImageError(f"has {image.width} x {image.height} pixels, at most {MAX_PIXELS} in all")
    # Cameras store previews behind the picture in a JPEG (format MPO): the first one is meant.
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in ("JPEG", "MPO"):
        raise ImageError(f"has {frames} frames; animations are not taken")
    if image.mode not in _PLAIN | _TRANSPARENT:
        raise ImageError(
            f"has the colour mode {image.mode}; RGB, grey and palette images are taken"
        )


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
