"""Images of requests: what is refused, which slots see them, what they cost."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from device_svc.engine_api import Sampling
from device_svc.images import Image, VisionShape, check_images, digests
from device_svc.prefix_cache import PrefixMode
from device_svc.scheduler import Policy
from tests.support.fake_core import FakeEngine, expected_tokens
from tests.support.stepping import Driver, name_of

VISION = VisionShape(max_images=2, max_tiles=4, tile_tokens=3, image_size=2, channels=3)
PROMPT = list(range(100, 122))


def image(ratio: int = 1, position: int = 1, *, shade: float = 0.0) -> Image:
    columns, rows = VISION.ratios[ratio - 1]
    return Image.of(np.full((columns * rows, 3, 2, 2), shade, np.float32), ratio, position)


def driver_of(*, slots: int = 2, mode: PrefixMode = PrefixMode.EXACT) -> Driver:
    return Driver(FakeEngine(slots=slots, chunk_tokens=4, vision=VISION), policy=Policy(mode))


def test_aspect_ratios_are_those_of_the_published_model() -> None:
    published = ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1))
    assert VISION.ratios == published


def test_the_digest_tells_pixels_and_shape_apart_but_not_positions() -> None:
    given = image(2, shade=0.5)
    assert image(2, 7, shade=0.5).digest == given.digest
    others = [image(2, shade=0.25), image(1, shade=0.5), image(5, shade=0.5)]
    assert len({given.digest, *digests(others)}) == 4


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([image(position=p) for p in (1, 2, 3)], "3 images are given, the model takes 2"),
        ([replace(image(), aspect_ratio_id=9)], "aspect ratio 9, must be in [1, 8]"),
        ([replace(image(), aspect_ratio_id=6)], "[1, 3, 2, 2], must be float32 [4, 3, 2, 2]"),
        ([image(position=10)], "images[0] is at token 10, must be in [0, 10)"),
        ([image(position=4), image(position=4)], "images[1] is at token 4, must be in [5, 10)"),
        ([image(shade=float("nan"))], "images[0] has pixels that are no finite numbers"),
    ],
    ids=["count", "ratio", "tiles", "position", "order", "nan"],
)
def test_what_does_not_fit_is_refused_with_its_limit(images: list[Image], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_images(images, VISION, 10)


def test_a_model_for_text_takes_no_images() -> None:
    check_images([], None, 10)
    with pytest.raises(ValueError, match="1 images are given, the model does not look at images"):
        check_images([image()], None, 10)


def test_every_request_sees_its_own_images() -> None:
    driver = driver_of(slots=3)
    given = {1: [image(shade=0.1)], 2: [], 3: [image(2, 2), image(3, 5)]}
    for key, images in given.items():
        driver.submit(key, PROMPT, images=images)
    driver.run()
    for key, images in given.items():
        assert driver.ids(key) == expected_tokens(PROMPT, 4, images=images)


def test_rows_are_shared_under_equal_images_only() -> None:
    driver = driver_of(slots=4)
    first, other = image(shade=0.1), image(shade=0.2)
    for key, images in enumerate([[first], [other], [], [first], [first, image(2, 5)], []]):
        driver.submit(key, [*PROMPT, key], images=images)
        driver.run()
        assert driver.ids(key) == expected_tokens([*PROMPT, key], 4, images=images)
    assert [accepted.cached_tokens for accepted in driver.accepted] == [0, 0, 0, 20, 0, 20]


@pytest.mark.parametrize("mode", [PrefixMode.EXACT, PrefixMode.OFF])
def test_the_next_turn_does_not_look_again(mode: PrefixMode) -> None:
    driver = driver_of(slots=1, mode=mode)
    pictures = [image(shade=0.1), image(shade=0.2, position=3)]
    driver.submit(1, PROMPT, images=pictures)
    driver.run()
    assert driver.engine.looked == 2
    driver.submit(2, [*PROMPT, *driver.ids(1), 5], images=pictures)
    driver.run()
    assert driver.engine.looked == 2
    assert driver.ids(2) == expected_tokens([*PROMPT, *driver.ids(1), 5], 4, images=pictures)


def test_a_preempted_request_goes_on_with_its_images() -> None:
    driver = driver_of(slots=1)
    sampling = Sampling(seed=3)
    driver.submit(1, PROMPT, images=[image(shade=0.1)], max_tokens=6, sampling=sampling)
    for _ in range(8):
        driver.step()
    driver.submit(2, [7], images=[image(shade=0.2, position=0)], max_tokens=2, priority=2)
    assert name_of(driver.step()) == "prefill 2"
    driver.run()
    assert driver.preemptions == 1
    assert driver.ids(1) == expected_tokens(PROMPT, 6, seed=3, images=[image(shade=0.1)])
    assert driver.ids(2) == expected_tokens([7], 2, images=[image(shade=0.2)])
