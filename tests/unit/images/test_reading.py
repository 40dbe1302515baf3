"""What strangers send as images."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from PIL import Image

from tpuserve.images.limits import MAX_IMAGE_BYTES
from tpuserve.images.reading import ImageError, read_image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(mode: str = "RGB", size: tuple[int, int] = (5, 3)) -> Image.Image:
    return Image.linear_gradient("L").resize(size).convert(mode)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_every_format_is_read(kind: str) -> None:
    image = read_image(encoded(picture(), kind))
    assert (image.mode, image.size) == ("RGB", (5, 3))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_modes_with_one_meaning_become_rgb(mode: str) -> None:
    shade = 255 if mode == "1" else 200
    image = Image.new("RGBA", (4, 4), (shade, shade, shade, 255)).convert(mode)
    assert read_image(encoded(image)).getpixel((1, 1)) == (shade, shade, shade)


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    read = read_image(encoded(image))
    assert [read.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (10, 20, 30)]


def test_the_camera_s_turn_is_undone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_image(encoded(picture(), "JPEG", exif=exif)).size == (3, 5)


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in (0, 100, 200)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


REFUSED: list[tuple[Callable[[], bytes], str]] = [
    (lambda: b"", "has 0 bytes; it must have 1 to 8388608"),
    (lambda: b"x" * (MAX_IMAGE_BYTES + 1), "has 8388609 bytes; it must have 1 to 8388608"),
    (lambda: b"no image at all", "is none of PNG, JPEG, WEBP, GIF"),
    (lambda: encoded(picture(), "BMP"), "is none of PNG, JPEG, WEBP, GIF"),
    (lambda: encoded(picture(size=(64, 64)))[:-60], "is cut off or corrupt"),
    (lambda: encoded(picture(size=(64, 64)), "JPEG")[:-60], "is cut off or corrupt"),
    (lambda: encoded(picture(size=(64, 64)))[:30], "is"),
    (
        lambda: encoded(Image.new("1", (9000, 9000))),
        "has 9000 x 9000 pixels, at most 40000000 in all",
    ),
    (lambda: encoded(Image.new("1", (20000, 20000))), "has more than 40000000 pixels"),
    (lambda: encoded(picture("CMYK"), "JPEG"), "has the colour mode CMYK"),
    (lambda: encoded(Image.new("I;16", (4, 4))), "has the colour mode I;16"),
    (lambda: animation("GIF"), "has 3 frames; animations are not taken"),
    (lambda: animation("PNG"), "has 3 frames; animations are not taken"),
    (lambda: animation("WEBP"), "has 3 frames; animations are not taken"),
]


@pytest.mark.parametrize(("make", "reason"), REFUSED)
def test_what_is_refused_and_why(make: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(ImageError) as refused:
        read_image(make())
    assert str(refused.value).startswith(reason)


def test_a_flipped_byte_never_breaks_more_than_the_image() -> None:
    data = encoded(picture(size=(16, 16)), "PNG")
    outcomes = set()
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 0xFF
        try:
            outcomes.add(read_image(bytes(broken)).mode)
        except ImageError:
            outcomes.add("refused")
    assert "refused" in outcomes
