"""Llama-3.2-11B-Vision, with an image in every text."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from device_svc.pixels import pixels_of
from models.check import serving, vision
from models.check.compiled import compile_checkpoint
from models.check.language import Build
from models.check.numbers import Array, compare
from models.check.row import Measured, Row
from models.check.serving import Served
from models.mllama import build, checkpoint
from tests.support.float_models import four_bits
from tests.support.mllama_reference import Picture, logits
from tpuserve.images.rules import read_rules

_IMAGE_POSITION: Final = 3
# Holds a template with a tool in small tokens.
_CONTEXT: Final = 512
_TEXT_LAYERS: Final = "language_model.model.layers."
_SERVED: Final = Build("f16", "image, history, chunks", "--history --chunk 64", served=True)
# With images of 1 to 4 tiles, and with none.
_TILES: Final = (
    Build("f16", "1 to 4 tiles, history, chunks", "--history --chunk 32"),
    Build("bf16", "1 to 4 tiles, static", "--max-input 64"),
    Build("w8f16", "1 to 4 tiles, dynamic", "--dynamic --max-input 64"),
    Build("w4f16", "1 to 4 tiles, batch 2", "--images 2 --history --chunk 32 --batch 2"),
)


@dataclass(frozen=True, slots=True)
class Reference:
    """The model that a build computes, and the one image of its texts."""

    config: Any
    weights: Any
    pixels: Array
    aspect_ratio_id: int

    def logits(self, ids: Array) -> Array:
        [position] = np.flatnonzero(ids == self.config["image_token_index"])
        picture = Picture(self.pixels, self.aspect_ratio_id, int(position))
        return logits(self.config, self.weights, ids, [picture])

    def show(self, engine: Any, slot: int, ids: Array) -> None:
        ids[_IMAGE_POSITION] = self.config["image_token_index"]
        engine.encode_image(slot, 0, self.pixels, self.aspect_ratio_id)
        engine.show_images(slot, [_IMAGE_POSITION])


def rows() -> Iterator[Row]:
    yield Row("mllama", _SERVED.quantize, _SERVED.features, measure_served)
    for each in _TILES:
        yield Row("mllama", each.quantize, each.features, partial(measure_tiles, each))


def measure_served(work: Path) -> Measured:
    """Raises BuildError; errors of the engine and the services are passed on."""
    tiny = checkpoint.load()
    source = tiny.write(work / "checkpoint")
    for path in (build.FIXTURE / "config").iterdir():
        if path.name != "config.json":
            shutil.copyfile(path, source / path.name)
    line = f"--seq {_CONTEXT} --quantize {_SERVED.quantize} {_SERVED.arguments}"
    model = compile_checkpoint(source, work / "model", line)
    rules = read_rules(model.config)
    assert rules
    image = _png()
    pixels = pixels_of(image, rules)
    reference = Reference(tiny.config, tiny.weights, pixels.tiles, pixels.aspect_ratio_id)
    vocab = tiny.config["text_config"]["vocab_size"]
    found = compare(model.bmodels, reference.logits, vocab, show=reference.show)
    answered = serving.ask(Served.of(model), reference.logits, tools=True, image=image)
    answers = f"{answered.describe('question about an image')} (small tokenizer)"
    return Measured(found.cosine, found.agreeing, found.positions, answers, answered.problems)


def measure_tiles(wanted: Build, work: Path) -> Measured:
    """Raises BuildError; errors of the engine are passed on."""
    tiny = checkpoint.load()
    source = tiny.write(work / "checkpoint")
    line = f"--seq 128 --quantize {wanted.quantize} {wanted.arguments}"
    model = compile_checkpoint(source, work / "model", line)
    found = vision.compare(model.bmodel, tiny.config, _rounded(wanted, tiny.weights))
    return Measured(found.cosine, found.agreeing, found.positions)


def _rounded(wanted: Build, weights: Mapping[str, Array]) -> dict[str, Array]:
    """What the build computes with: the image net keeps all bits of its weights."""
    if not wanted.quantize.startswith("w4"):
        return dict(weights)
    layers = {name: w for name, w in weights.items() if name.startswith(_TEXT_LAYERS)}
    return {**weights, **four_bits(layers)}


def _png() -> bytes:
    """Four tiles of 70 pixels, each unlike the others."""
    picture = Image.linear_gradient("L").resize((140, 130)).convert("RGB")
    picture.paste(Image.new("RGB", (60, 130), (20, 40, 250)))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


ROWS = tuple(rows())
