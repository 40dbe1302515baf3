"""The scheduler over the small vision model on the emulator: tokens are the float reference's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pytest

from device_svc.engine import CoreEngine
from device_svc.images import Image
from models.mllama import build, checkpoint
from tests.support import mllama_reference
from tests.support.fake_core import FakeEngine
from tests.support.stepping import Driver, name_of
from tpuserve import bmodel, runtime_library

BMODEL = build.FIXTURE / "vision_f16.bmodel"
TOKENS = 5


@pytest.fixture(scope="module")
def tiny() -> checkpoint.Checkpoint:
    return checkpoint.load()


@pytest.fixture
def driver() -> Iterator[Driver]:
    found = runtime_library.find("emulator")
    engine = CoreEngine(
        [BMODEL],
        found.directory,
        emulator=True,
        chips=[0],
        slots=2,
        memories=[bmodel.memory_budget(bmodel.read(BMODEL))],
        deterministic=True,
    )
    # The driver asks for what every engine has.
    yield Driver(cast("FakeEngine", engine))
    engine.close()


def image(config: Any, ratio: int, position: int, *, seed: int) -> Image:
    columns, rows = config["vision_config"]["supported_aspect_ratios"][ratio - 1]
    side = config["vision_config"]["image_size"]
    shape = (columns * rows, 3, side, side)
    pixels = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return Image.of(pixels, ratio, position)


def prompt(config: Any, tokens: int, images: Sequence[Image], *, seed: int) -> list[int]:
    vocab = config["text_config"]["vocab_size"]
    ids = np.random.default_rng(seed).integers(0, vocab, tokens)
    ids[[given.position for given in images]] = config["image_token_index"]
    return [int(token) for token in ids]


def best_tokens(
    tiny: checkpoint.Checkpoint, ids: Sequence[int], images: Sequence[Image]
) -> list[int]:
    """By the reference, each behind those before it."""
    pictures = [
        mllama_reference.Picture(given.pixels, given.aspect_ratio_id, given.position)
        for given in images
    ]
    text = list(ids)
    for _ in range(TOKENS):
        logits = mllama_reference.logits(tiny.config, tiny.weights, text, pictures)
        text.append(int(logits[-1].argmax()))
    return text[len(ids) :]


def test_turns_neighbours_and_preemption(driver: Driver, tiny: checkpoint.Checkpoint) -> None:
    config = tiny.config
    seen, other = image(config, 6, 3, seed=1), image(config, 2, 3, seed=2)
    first = prompt(config, 70, [seen], seed=3)
    # The same text about another image, and one about none.
    requests: dict[int, tuple[list[int], list[Image]]] = {
        1: (first, [seen]),
        2: (first, [other]),
        3: (prompt(config, 20, [], seed=4), []),
    }
    for key, (ids, images) in requests.items():
        driver.submit(key, ids, images=images, max_tokens=TOKENS)
    driver.run()
    turn = [*first, *driver.ids(2), 7, 8, 9]
    driver.submit(4, turn, images=[other], max_tokens=TOKENS)
    driver.submit(5, first, images=[seen], max_tokens=TOKENS)
    for _ in range(6):
        driver.step()
    driver.submit(6, requests[3][0], max_tokens=TOKENS, priority=1)
    assert name_of(driver.step()) == "prefill 6"
    driver.run()
    requests |= {4: (turn, [other]), 5: (first, [seen]), 6: requests[3]}
    assert driver.preemptions == 1
    assert [accepted.cached_tokens > 0 for accepted in driver.accepted][:3] == [False] * 3
    assert driver.accepted[3].cached_tokens == 64
    for key, (ids, images) in requests.items():
        assert driver.ids(key) == best_tokens(tiny, ids, images), key
