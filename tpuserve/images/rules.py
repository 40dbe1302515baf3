"""What a model directory's config/ says about images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_KINDS: Final = frozenset({"MllamaImageProcessor"})
# What the processor takes where preprocessor_config.json says nothing.
_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
_STD: Final = (0.26862954, 0.26130258, 0.27577711)
_MAX_TILES: Final = 4


class ImageRulesError(ValueError):
    """A file is not what it should be; the text names it."""


@dataclass(frozen=True, slots=True)
class ImageRules:
    """Pixels are resampled by PIL's filter number `resample` to the canvas, times `rescale`, less
    `mean`, over `std`. `token_id` stands for one image in a prompt."""

    token_id: int
    tile_size: int
    max_tiles: int
    resample: int
    rescale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def read_rules(config: Path) -> ImageRules | None:
    """None for a model that reads text only. Raises ImageRulesError."""
    path = config / "preprocessor_config.json"
    if not path.exists():
        return None
    processor, model = _object(path), _object(config / "config.json")
    kind = processor.get("image_processor_type")
    if kind not in _KINDS:
        known = ", ".join(sorted(_KINDS))
        raise ImageRulesError(f"{path}: image_processor_type is {kind!r}; known is {known}")
    size = processor.get("size")
    side = size.get("height") if isinstance(size, dict) else None
    if not isinstance(side, int) or side < 1 or size != {"height": side, "width": side}:
        raise ImageRulesError(f"{path}: size is {size!r}; equal height and width are needed")
    token_id = model.get("image_token_index")
    if type(token_id) is not int or token_id < 0:
        raise ImageRulesError(f"{config / 'config.json'}: image_token_index is {token_id!r}")
    return ImageRules(
        token_id=token_id,
        tile_size=side,
        max_tiles=_number(processor, "max_image_tiles", _MAX_TILES, path),
        resample=_number(processor, "resample", 2, path),
        rescale=float(processor.get("rescale_factor", 1 / 255)),
        mean=_triple(processor, "image_mean", _MEAN, path),
        std=_triple(processor, "image_std", _STD, path),
    )


def _object(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ImageRulesError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(document, dict):
        raise ImageRulesError(f"{path} holds no JSON object")
    return document


def _number(table: dict[str, Any], key: str, default: int, path: Path) -> int:
    value = table.get(key, default)
    if type(value) is not int or value < 1:
        raise ImageRulesError(f"{path}: {key} is {value!r}")
    return value


def _triple(
    table: dict[str, Any], key: str, default: tuple[float, float, float], path: Path
) -> tuple[float, float, float]:
    values = table.get(key, default)
    if len(values) != 3 or not all(isinstance(value, (int, float)) for value in values):
        raise ImageRulesError(f"{path}: {key} is {values!r}")
    return (float(values[0]), float(values[1]), float(values[2]))
