"""Packs a small checkpoint's layers in 4 bits as GPTQ and AWQ store them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import save_file

from models.check.numbers import Array
from tests.support.tiny_checkpoints import TinyCheckpoint

_GROUP: Final = 64
# Which of eight neighbouring outputs has the bits 4i to 4i + 3 of an AWQ word.
_AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)


def write_packed(tiny: TinyCheckpoint, method: str, directory: Path) -> dict[str, Array]:
    """Write config.json and weights; returns what the packed weights stand for.

    method: gptq or awq. A level q stands for (q - zero) * scale, each group of 64 inputs of an
    output having a scale and a zero of its own.
    """
    stored: dict[str, Array] = {}
    meant: dict[str, Array] = {}
    for name, weight in tiny.weights.items():
        if weight.ndim != 2 or "layers" not in name:
            stored[name], meant[name] = weight.astype(np.float16), weight
            continue
        levels, zeros, scales = _quantized(weight)
        groups = (levels.reshape(len(levels), -1, _GROUP) - zeros[..., None]) * scales[..., None]
        meant[name] = groups.reshape(weight.shape)
        path = name.removesuffix(".weight")
        pack = _pack_gptq if method == "gptq" else _pack_awq
        stored |= {f"{path}.{kind}": value for kind, value in pack(levels, zeros).items()}
        stored[f"{path}.scales"] = np.ascontiguousarray(scales.T).astype(np.float16)
    settings: dict[str, Any] = {"quant_method": method, "bits": 4, "group_size": _GROUP}
    if method == "gptq":
        settings |= {"desc_act": False, "sym": False}
    else:
        settings |= {"version": "gemm", "zero_point": True}
    config = {**tiny.config, "torch_dtype": "float16", "quantization_config": settings}
    (directory / "config.json").write_text(json.dumps(config))
    save_file(stored, directory / "model.safetensors")
    return meant


def _quantized(weight: Array) -> tuple[Array, Array, Array]:
    """Levels [out, in] in 0 … 15, zeros and scales [out, groups]."""
    groups = weight.reshape(len(weight), -1, _GROUP)
    low, high = np.minimum(groups.min(axis=2), 0), np.maximum(groups.max(axis=2), 0)
    scales = ((high - low) / 15).astype(np.float16).astype(np.float64)
    # GPTQ stores a zero less one.
    zeros = np.clip(np.round(-low / scales), 1, 15)
    levels = np.clip(np.round(groups / scales[..., None]) + zeros[..., None], 0, 15)
    return levels.reshape(weight.shape), zeros, scales


def _pack_gptq(levels: Array, zeros: Array) -> dict[str, Array]:
    inputs = levels.shape[1]
    return {
        "qweight": _words(levels.T, axis=0, order=range(8)),
        "qzeros": _words(zeros.T - 1, axis=1, order=range(8)),
        "g_idx": (np.arange(inputs) // _GROUP).astype(np.int32),
    }


def _pack_awq(levels: Array, zeros: Array) -> dict[str, Array]:
    return {
        "qweight": _words(levels.T, axis=1, order=_AWQ_ORDER),
        "qzeros": _words(zeros.T, axis=1, order=_AWQ_ORDER),
    }


def _words(levels: Array, *, axis: int, order: Any) -> Array:
    """Eight neighbours of an axis in one int32; number order[i] has the bits from 4i."""
    eights = np.moveaxis(levels, axis, -1).astype(np.uint32)
    eights = eights.reshape(*eights.shape[:-1], -1, 8)
    words = sum(eights[..., number] << np.uint32(4 * i) for i, number in enumerate(order))
    return np.ascontiguousarray(np.moveaxis(np.asarray(words), -1, axis)).view(np.int32)
