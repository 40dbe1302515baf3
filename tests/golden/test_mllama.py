"""Llama-3.2-Vision on the emulator against a float64 reference of the same random weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from device_svc import _core
from models.mllama import build, checkpoint
from tests.golden.conftest import OpenEngine
from tests.golden.models import cosine
from tests.support import mllama_reference
from tests.support.mllama_reference import Picture
from tests.unit.compiler_batched.emulated import Nets

BMODEL = build.FIXTURE / "vision_f16.bmodel"
STEPS = 4

Ids = NDArray[np.int32]


@pytest.fixture(scope="module")
def tiny() -> checkpoint.Checkpoint:
    return checkpoint.load()


@pytest.fixture(scope="module")
def opened(library: _core.Library) -> Iterator[_core.Engine]:
    engine = _core.Engine(library, [str(BMODEL)], slots=4, deterministic=True)
    yield engine
    engine.close()


@pytest.fixture
def engine(opened: _core.Engine) -> _core.Engine:
    """Its slots are empty and have looked at nothing."""
    for slot in range(opened.slots):
        opened.wipe(slot)
    return opened


@dataclass(frozen=True, slots=True)
class Text:
    """ids [prompt + STEPS], the prompt's image tokens in place."""

    ids: Ids
    pictures: Sequence[Picture]

    @property
    def prompt(self) -> Ids:
        return self.ids[:-STEPS]

    @property
    def steps(self) -> list[Ids]:
        return np.split(self.ids[-STEPS:], STEPS)


def picture(config: Any, ratio: int, position: int, *, seed: int) -> Picture:
    vision = config["vision_config"]
    width, height = vision["supported_aspect_ratios"][ratio - 1]
    shape = (width * height, vision["num_channels"], vision["image_size"], vision["image_size"])
    pixels = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return Picture(pixels, ratio, position)


def text(config: Any, tokens: int, images: Sequence[tuple[int, int]], *, seed: int) -> Text:
    """images: (aspect ratio, position) of each."""
    source = np.random.default_rng(seed)
    vocab = config["text_config"]["vocab_size"]
    ids = source.integers(0, vocab, tokens + STEPS).astype(np.int32)
    pictures = [
        picture(config, ratio, position, seed=seed + number)
        for number, (ratio, position) in enumerate(images)
    ]
    for given in pictures:
        ids[given.position] = config["image_token_index"]
    return Text(ids, pictures)


def look(engine: _core.Engine, slot: int, given: Text) -> None:
    for index, image in enumerate(given.pictures):
        engine.encode_image(slot, index, image.pixels, image.aspect_ratio_id)
    engine.show_images(slot, [image.position for image in given.pictures])


def prefill(engine: _core.Engine, slot: int, prompt: Ids, start: int = 0) -> NDArray[Any]:
    chunk = engine.spec.prefill_chunk
    for position in range(start, len(prompt), chunk):
        row = engine.prefill(slot, prompt[position : position + chunk], position)
    assert row is not None
    return row


def rows_of(engine: _core.Engine, slot: int, given: Text) -> list[NDArray[Any]]:
    """Logits after the prompt and after each step behind it."""
    look(engine, slot, given)
    rows = [prefill(engine, slot, given.prompt)]
    rows += [engine.decode([slot], step)[0] for step in given.steps]
    return rows


def expected(tiny: checkpoint.Checkpoint, given: Text) -> NDArray[Any]:
    logits = mllama_reference.logits(tiny.config, tiny.weights, given.ids, given.pictures)
    return logits[-STEPS - 1 :]


def assert_close(rows: Sequence[NDArray[Any]], wanted: NDArray[Any]) -> None:
    for row, best in zip(rows, wanted, strict=True):
        assert cosine(row.astype(np.float32), best.astype(np.float32)) >= 0.9999
        assert row.argmax() == best.argmax()


def test_image_states_of_every_aspect_ratio(
    tiny: checkpoint.Checkpoint, library: _core.Library
) -> None:
    nets = Nets(BMODEL)
    variant = nets.variants("vit")[0]
    tiles, *tile_shape = variant.inputs[0].shape
    assert len(tiny.config["vision_config"]["supported_aspect_ratios"]) == 8
    for ratio in range(1, 9):
        given = picture(tiny.config, ratio, 0, seed=ratio)
        pixels = np.zeros((tiles, *tile_shape), np.float32)
        pixels[: given.tiles] = given.pixels
        mask = (np.arange(tiles) < given.tiles).astype(np.int32).reshape(1, 1, tiles)
        [states] = nets.run("vit", variant, [pixels, np.array([[ratio]], np.int32), mask])
        wanted = mllama_reference.image_states(tiny.config, tiny.weights, given)
        for tile in range(tiles):
            got = states[tile].astype(np.float32).ravel()
            assert cosine(got, wanted[tile].astype(np.float32).ravel()) >= 0.99999, (ratio, tile)
    nets.close()


@pytest.mark.parametrize(
    ("tokens", "images"),
    [
        (20, []),
        (20, [(6, 3)]),
        (12, [(2, 5)]),
        (9, [(1, 0)]),
        # Behind the first chunk's border, and only there.
        (90, [(7, 70)]),
        # The first is not seen from the second on.
        (100, [(4, 3), (5, 30)]),
        # Neighbours are seen together.
        (30, [(8, 6), (3, 7)]),
    ],
    ids=["text", "4-tiles", "2-tiles", "1-tile", "later-chunk", "two-images", "neighbours"],
)
def test_logits_of_prefill_and_decode(
    tokens: int,
    images: list[tuple[int, int]],
    tiny: checkpoint.Checkpoint,
    engine: _core.Engine,
) -> None:
    given = text(tiny.config, tokens, images, seed=tokens)
    assert_close(rows_of(engine, 0, given), expected(tiny, given))


def test_short_variants_and_single_rows(
    tiny: checkpoint.Checkpoint, open_engine: OpenEngine
) -> None:
    """Not pinned to the largest shape: one row of 64 for the first slot, all rows for the last."""
    chosen = open_engine(BMODEL, slots=4)
    for slot in (0, 3):
        given = text(tiny.config, 20, [(6, 3)], seed=30 + slot)
        assert_close(rows_of(chosen, slot, given), expected(tiny, given))


def test_slots_with_and_without_images_decode_together(
    tiny: checkpoint.Checkpoint, engine: _core.Engine
) -> None:
    texts = [
        text(tiny.config, 15, images, seed=40 + slot)
        for slot, images in enumerate([[(6, 2)], [], [(1, 0), (3, 9)], []])
    ]
    alone = [rows_of(engine, slot, given)[1:] for slot, given in enumerate(texts)]
    for slot, given in enumerate(texts):
        prefill(engine, slot, given.prompt)
    for step in range(STEPS):
        ids = np.array([given.ids[step - STEPS] for given in texts])
        rows = engine.decode(range(4), ids)
        for slot, row in enumerate(rows):
            np.testing.assert_array_equal(row, alone[slot][step])
    for given, steps in zip(texts, alone, strict=True):
        assert_close(steps, expected(tiny, given)[1:])


def test_a_second_turn_finds_the_image_in_the_slot(
    tiny: checkpoint.Checkpoint, engine: _core.Engine
) -> None:
    given = text(tiny.config, 90, [(5, 4)], seed=50)
    look(engine, 0, given)
    prefill(engine, 0, given.prompt[:64])
    before = engine.launches
    row = prefill(engine, 0, given.prompt, start=64)
    # Embedding, text layers, layers that attend to images, head: no image net, no keys and values.
    vision = engine.spec.vision
    assert vision is not None
    assert engine.launches - before == engine.spec.layers + vision.layers + 2
    assert_close([row], expected(tiny, given)[:1])


def test_a_copied_prefix_takes_its_images_along(
    tiny: checkpoint.Checkpoint, engine: _core.Engine
) -> None:
    given = text(tiny.config, 80, [(4, 2), (1, 20)], seed=60)
    other = text(tiny.config, 20, [(8, 1)], seed=61)
    rows_of(engine, 1, other)
    look(engine, 0, given)
    prefill(engine, 0, given.prompt)
    engine.copy_prefix(0, 1, 64)
    # The source goes on to something else.
    rows_of(engine, 0, other)
    row = prefill(engine, 1, given.prompt, start=64)
    steps = [engine.decode([1], step)[0] for step in given.steps]
    assert_close([row, *steps], expected(tiny, given))


def test_text_after_an_image_on_the_same_slot_sees_none(
    tiny: checkpoint.Checkpoint, engine: _core.Engine
) -> None:
    rows_of(engine, 0, text(tiny.config, 20, [(6, 3)], seed=70))
    given = text(tiny.config, 18, [], seed=71)
    assert_close(rows_of(engine, 0, given), expected(tiny, given))
    assert engine.encoded_images(0) == 1


def test_saved_rows_go_on_behind_the_same_image(
    tiny: checkpoint.Checkpoint, engine: _core.Engine
) -> None:
    given = text(tiny.config, 20, [(7, 3)], seed=80)
    wanted = rows_of(engine, 0, given)
    look(engine, 0, given)
    prefill(engine, 0, given.prompt)
    saved = engine.save(0)
    rows_of(engine, 0, text(tiny.config, 20, [(6, 3)], seed=81))
    look(engine, 1, given)
    engine.restore(1, saved, saved.shape[2])
    for step, row in zip(given.steps, wanted[1:], strict=True):
        np.testing.assert_array_equal(engine.decode([1], step)[0], row)


def test_what_does_not_fit_is_refused(tiny: checkpoint.Checkpoint, engine: _core.Engine) -> None:
    pixels = picture(tiny.config, 2, 0, seed=1).pixels
    with pytest.raises(ValueError, match=r"pixels: expected the shape \[4, 3, 70, 70\]"):
        engine.encode_image(0, 0, pixels, 4)
    with pytest.raises(ValueError, match="aspect ratio 9: expected 1 to 8"):
        engine.encode_image(0, 0, pixels, 9)
    with pytest.raises(ValueError, match="image 1: expected 0 to 0; slot 0 has 0 of at most 2"):
        engine.encode_image(0, 1, pixels, 2)
    with pytest.raises(ValueError, match="1 images to show: slot 0 has 0"):
        engine.show_images(0, [0])
    for index in range(2):
        engine.encode_image(0, index, pixels, 2)
    with pytest.raises(ValueError, match="image 2: expected 0 to 1; slot 0 has 2 of at most 2"):
        engine.encode_image(0, 2, pixels, 2)
    with pytest.raises(ValueError, match="image at token 3: expected 4 to 255, in ascending order"):
        engine.show_images(0, [3, 3])
    engine.show_images(0, [2, 9])
    engine.prefill(0, np.zeros(5, np.int32), 0)
    with pytest.raises(ValueError, match="slot 0 shows an image at token 9: prefill up to it"):
        engine.decode([0], np.zeros(1, np.int32))
