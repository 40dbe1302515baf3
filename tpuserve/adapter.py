"""A LoRA adapter as the PEFT library stores it: adapter_config.json, adapter_model.safetensors.

A linear layer W of the model then computes x·(W + scale·B·A)ᵀ with A [rank, in], B [out, rank] and
scale = lora_alpha ÷ rank (÷ √rank with rank-stabilised LoRA): https://arxiv.org/abs/2106.09685 and
https://arxiv.org/abs/2312.03732.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

_CONFIG: Final = "adapter_config.json"
_WEIGHTS: Final = "adapter_model.safetensors"
_NAME: Final = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")
_DTYPES: Final = {"F16": "<f2", "F32": "<f4", "BF16": "<u2"}
# Of PEFT's settings, those that change the formula, with the value that leaves it.
_PLAIN: Final = {
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "alpha_pattern": ({}, None),
    "rank_pattern": ({}, None),
    "modules_to_save": ([], None),
    "bias": ("none", None),
}


class AdapterError(ValueError):
    """The adapter cannot be read or used; the text names the file, the value and the limit."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """weights: A [rank, in] and B·scale [out, rank], float32, by the name of the linear layer.
    sha256: of both files.
    """

    path: Path
    rank: int
    weights: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
    sha256: str


def load(path: Path) -> Adapter:
    """Raises AdapterError."""
    try:
        config_bytes = (path / _CONFIG).read_bytes()
        data = (path / _WEIGHTS).read_bytes()
    except OSError as error:
        raise AdapterError(f"{error.filename}: {error.strerror}") from error
    rank, scale = _rank_and_scale(path / _CONFIG, config_bytes)
    try:
        stored: dict[str, dict[str, Any]] = dict(deserialize(data))  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise AdapterError(f"{path / _WEIGHTS} is no safetensors file: {error}") from error
    found: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name, tensor in stored.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise AdapterError(f"{path / _WEIGHTS}: {name} is no LoRA weight of a linear layer")
        found.setdefault(match[1], {})[match[2]] = _array(path, name, tensor)
    weights = {
        layer: _pair(path, layer, parts, rank, scale) for layer, parts in sorted(found.items())
    }
    digest = hashlib.sha256(hashlib.sha256(config_bytes).digest() + hashlib.sha256(data).digest())
    return Adapter(path, rank, weights, digest.hexdigest())


def _rank_and_scale(path: Path, text: bytes) -> tuple[int, float]:
    try:
        config = json.loads(text)
        if config.get("peft_type", "LORA") != "LORA":
            raise AdapterError(f"{path}: peft_type is {config['peft_type']!r}, must be 'LORA'")
        for key, plain in _PLAIN.items():
            if config.get(key) not in plain:
                raise AdapterError(f"{path}: {key} is {config[key]!r}, which is not supported")
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        stabilised = bool(config.get("use_rslora"))
    except (KeyError, TypeError, AttributeError) as error:
        raise AdapterError(f"{path} is no configuration of LoRA: {error!r}") from error
    except AdapterError:
        raise
    except ValueError as error:
        raise AdapterError(f"{path} is no configuration of LoRA: {error}") from error
    if rank < 1 or not math.isfinite(alpha):
        raise AdapterError(f"{path}: r is {rank}, lora_alpha {alpha}")
    return rank, alpha / (math.sqrt(rank) if stabilised else rank)


def _array(path: Path, name: str, tensor: dict[str, Any]) -> NDArray[np.float32]:
    dtype = tensor["dtype"]
    if dtype not in _DTYPES:
        raise AdapterError(f"{path / _WEIGHTS}: {name} is {dtype}, must be F16, BF16 or F32")
    stored = np.frombuffer(tensor["data"], _DTYPES[dtype]).reshape(tensor["shape"])
    if dtype == "BF16":
        # The upper half of a float32.
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    array: NDArray[np.float32] = stored.astype(np.float32)
    return array


def _pair(
    path: Path, layer: str, parts: dict[str, NDArray[np.float32]], rank: int, scale: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if len(parts) != 2:
        raise AdapterError(f"{path / _WEIGHTS}: {layer} has lora_{min(parts)} alone")
    a, b = parts["A"], parts["B"]
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != rank or b.shape[1] != rank:
        raise AdapterError(
            f"{path / _WEIGHTS}: {layer} has A {a.shape} and B {b.shape}, the rank is {rank}"
        )
    return a, b * np.float32(scale)
