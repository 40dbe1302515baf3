"""Images of submits: from bytes to what the engine takes, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from device_svc.images import Image, VisionShape, check_images
from device_svc.pixels import pixels_of
from device_svc.request import Refused, RejectReason, Request
from tpuserve.images.reading import ImageError
from tpuserve.images.rules import ImageRules

_THREADS: Final = 2

# An encoded image and its token's index in the prompt.
Encoded = tuple[bytes, int]


class ImageReader:
    """`rules` and `vision` are None for a model that reads text only. Call `close` at the end."""

    def __init__(self, rules: ImageRules | None, vision: VisionShape | None) -> None:
        self._rules = rules if vision is not None else None
        self._vision = vision
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="image")

    @property
    def token_id(self) -> int | None:
        """What stands for an image in a prompt."""
        return None if self._rules is None else self._rules.token_id

    def check(self, encoded: Sequence[Encoded], prompt_ids: NDArray[np.int32]) -> None:
        """Whether images and their tokens agree. Raises Refused."""
        if self._rules is None:
            if encoded:
                raise Refused(RejectReason.UNSUPPORTED, "the bmodel reads text only")
            return
        tokens = np.flatnonzero(prompt_ids == self._rules.token_id).tolist()
        positions = [position for _, position in encoded]
        if positions != tokens:
            raise Refused(
                RejectReason.INVALID,
                f"{len(positions)} images are at {positions[:8]}, "
                f"tokens of images at {tokens[:8]}: they must be the same",
            )

    async def read(self, encoded: Sequence[Encoded], request: Request) -> tuple[Image, ...]:
        """Raises Refused naming what is wrong with which image."""
        images = await asyncio.get_running_loop().run_in_executor(self._pool, self._decode, encoded)
        try:
            check_images(images, self._vision, len(request.prompt_ids))
        except ValueError as error:
            raise Refused(RejectReason.INVALID, str(error)) from error
        return images

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _decode(self, encoded: Sequence[Encoded]) -> tuple[Image, ...]:
        assert self._rules is not None
        images: list[Image] = []
        for number, (data, position) in enumerate(encoded):
            try:
                pixels = pixels_of(data, self._rules)
            except ImageError as error:
                raise Refused(RejectReason.INVALID, f"images[{number}] {error}") from error
            images.append(Image.of(pixels.tiles, pixels.aspect_ratio_id, position))
        return tuple(images)
