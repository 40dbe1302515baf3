"""What a request's images must satisfy before anything is done with them."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.facts import DeviceFacts, TokenizerFacts
from tpuserve.errors import FeatureMissing, InvalidArgument
from tpuserve.images.limits import MAX_IMAGE_BYTES, check_total


def check_images(images: Sequence[bytes], device: DeviceFacts, tokenizer: TokenizerFacts) -> None:
    """Raises FeatureMissing for a model that reads text only, else InvalidArgument naming the
    count or size and its limit."""
    if not images:
        return
    if not (device.max_images and tokenizer.takes_images):
        raise FeatureMissing(
            f"the conversation has images and model {device.model} reads text only",
            field="messages",
        )
    if len(images) > device.max_images:
        raise InvalidArgument(
            f"the conversation has {len(images)} images; model {device.model} takes at most "
            f"{device.max_images}",
            field="messages",
        )
    for number, image in enumerate(images):
        if not 0 < len(image) <= MAX_IMAGE_BYTES:
            raise InvalidArgument(
                f"image {number} has {len(image)} bytes; it must have 1 to {MAX_IMAGE_BYTES}",
                field="messages",
            )
    check_total(sum(map(len, images)))
