"""A vision bmodel's logits on the emulator beside those of the float reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from device_svc import _core
from models.check.numbers import Agreement, Array, agreement
from tests.support import mllama_reference
from tests.support.mllama_reference import Picture
from tpuserve import runtime_library

# Aspect ratio and position of each image of a text: 4, 2, 1 and 3 tiles in both directions, none.
_TEXTS: Final = (((6, 3),), ((2, 5),), ((1, 0),), ((7, 4),), ())
_PROMPT_TOKENS: Final = 40
_STEPS: Final = 4


def compare(bmodel: Path, config: Mapping[str, Any], weights: Mapping[str, Array]) -> Agreement:
    """Texts about one image each and about none: prefill, in chunks where the nets can, and decode
    steps. As many slots as one launch serves step together, whatever their images.
    """
    found = runtime_library.find("emulator")
    library = _core.Library(str(found.directory), emulator=True)
    engine = _core.Engine(library, [str(bmodel)], slots=2)
    texts = [_text(config, images, seed) for seed, images in enumerate(_TEXTS)]
    got: list[dict[int, Array]] = []
    try:
        together = min(2, engine.spec.decode_rows)
        for first in range(0, len(texts), together):
            got += _run(engine, texts[first : first + together])
    finally:
        engine.close()
    wanted = [mllama_reference.logits(config, weights, ids, pictures) for ids, pictures in texts]
    return agreement(got, wanted)


def _text(
    config: Mapping[str, Any], images: Sequence[tuple[int, int]], seed: int
) -> tuple[Array, list[Picture]]:
    source = np.random.default_rng(seed)
    vision = config["vision_config"]
    vocab = config["text_config"]["vocab_size"]
    ids = source.integers(0, vocab, _PROMPT_TOKENS + _STEPS).astype(np.int32)
    pictures = []
    for ratio, position in images:
        columns, rows = vision["supported_aspect_ratios"][ratio - 1]
        side = vision["image_size"]
        shape = (columns * rows, vision["num_channels"], side, side)
        pictures.append(Picture(source.normal(size=shape).astype(np.float32), ratio, position))
        ids[position] = config["image_token_index"]
    return ids, pictures


def _run(
    engine: _core.Engine, texts: Sequence[tuple[Array, Sequence[Picture]]]
) -> list[dict[int, Array]]:
    """Rows of each text by the position that they follow."""
    got: list[dict[int, Array]] = []
    chunk = engine.spec.prefill_chunk if engine.spec.history else _PROMPT_TOKENS
    for slot, (ids, pictures) in enumerate(texts):
        for index, picture in enumerate(pictures):
            engine.encode_image(slot, index, picture.pixels, picture.aspect_ratio_id)
        engine.show_images(slot, [picture.position for picture in pictures])
        for start in range(0, _PROMPT_TOKENS, chunk):
            end = min(start + chunk, _PROMPT_TOKENS)
            row: Any = engine.prefill(slot, ids[start:end], start)
        got.append({_PROMPT_TOKENS - 1: row})
    for position in range(_PROMPT_TOKENS, _PROMPT_TOKENS + _STEPS):
        step = np.array([ids[position] for ids, _ in texts], np.int32)
        for slot, row in enumerate(engine.decode(range(len(texts)), step)):
            got[slot][position] = row
    return got
