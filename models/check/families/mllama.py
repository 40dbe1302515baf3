<<<<<<< HEAD
"""Llama-3.2-11B-Vision, with an image in every text."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from device_svc.pixels import pixels_of
from models.check import serving
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
_BUILDS: Final = (
    Build("f16", "image, history, chunks", "--history --chunk 64", served=True),
    Build("w8f16", "image, history, batch 2", "--history --chunk 64 --batch 2"),
    Build("w4f16", "image, history, chunks", "--history --chunk 32"),
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
    for each in _BUILDS:
        yield Row("mllama", each.quantize, each.features, partial(measure, each))


def measure(wanted: Build, work: Path) -> Measured:
    """Raises BuildError; errors of the engine and the services are passed on."""
    tiny = checkpoint.load()
    source = tiny.write(work / "checkpoint")
    for path in (build.FIXTURE / "config").iterdir():
        if path.name != "config.json":
            shutil.copyfile(path, source / path.name)
    line = f"--seq {_CONTEXT} --quantize {wanted.quantize} {wanted.arguments}"
    model = compile_checkpoint(source, work / "model", line)
    rules = read_rules(model.config)
    assert rules
    image = _png()
    pixels = pixels_of(image, rules)
    weights = dict(tiny.weights)
    if wanted.quantize.startswith("w4"):
        layers = {name: w for name, w in weights.items() if name.startswith(_TEXT_LAYERS)}
        weights |= four_bits(layers)
    reference = Reference(tiny.config, weights, pixels.tiles, pixels.aspect_ratio_id)
    vocab = tiny.config["text_config"]["vocab_size"]
    found = compare(model.bmodels, reference.logits, vocab, show=reference.show)
    if not wanted.served:
        return Measured(found.cosine, found.agreeing, found.positions)
    answered = serving.ask(Served.of(model), reference.logits, tools=True, image=image)
    answers = f"{answered.describe('question about an image')} (small tokenizer)"
    return Measured(found.cosine, found.agreeing, found.positions, answers, answered.problems)


def _png() -> bytes:
    """Four tiles of 70 pixels, each unlike the others."""
    picture = Image.linear_gradient("L").resize((140, 130)).convert("RGB")
    picture.paste(Image.new("RGB", (60, 130), (20, 40, 250)))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


ROWS = tuple(rows())
=======
"""Llama-3.2-Vision: images of one to four tiles, and none."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from models.check import vision
from models.check.compiled import compile_checkpoint
from models.check.row import Measured, Row
from models.mllama import checkpoint
from tests.support.float_models import four_bits

_MODEL = "mllama"
_BUILDS = (
    ("f16", "images, history, chunks", "--history --chunk 32"),
    ("bf16", "images, static", "--max-input 64"),
    ("w8f16", "2 images, dynamic", "--images 2 --dynamic --max-input 64"),
    ("w4f16", "2 images, history, chunks, batch 2", "--images 2 --history --chunk 32 --batch 2"),
)


def measure(quantize: str, arguments: str, work: Path) -> Measured:
    """Raises BuildError; errors of the engine are passed on."""
    tiny = checkpoint.load()
    source = tiny.write(work / "checkpoint")
    line = f"--seq 128 --quantize {quantize} {arguments}"
    model = compile_checkpoint(source, work / "model", line)
    weights = dict(tiny.weights)
    if quantize.startswith("w4"):
        # The image net keeps all bits of its weights.
        layers = {name: w for name, w in weights.items() if ".model.layers." in name}
        weights |= four_bits(layers)
    found = vision.compare(model.bmodel, tiny.config, weights)
    return Measured(found.cosine, found.agreeing, found.positions)


ROWS = tuple(
    Row(_MODEL, quantize, features, partial(measure, quantize, arguments))
    for quantize, features, arguments in _BUILDS
)
>>>>>>> f72681e (Check the vision model against its reference with all weights)
