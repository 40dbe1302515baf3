"""What the vendor's compiler can split over chips, and whether it did."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compiler.errors import CompileError

# A weight with fewer elements is not split but copied to every chip, without a word.
SPLIT_ABOVE_ELEMENTS = 4_194_304
_MODULE = re.compile(r"module\.coeff_size = (\d+).*?module\.device_id = (\d+)", re.DOTALL)
_TOLERANCE = 0.05


def check_shape(config: Mapping[str, Any], quantize: str, chips: int) -> None:
    """Raises CompileError for a model that the compiler would not split, or not run."""
    heads = int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads", heads))
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    head_dim = int(config.get("head_dim") or hidden // heads)
    for name, count in (("attention heads", heads), ("key and value heads", kv_heads)):
        if count % chips:
            raise CompileError(f"the model's {count} {name} do not divide by {chips} chips")
    if inner % chips or (quantize.startswith("w4") and inner // chips % 64):
        raise CompileError(
            f"intermediate_size {inner} does not divide by {chips} chips"
            + (" into multiples of 64" if quantize.startswith("w4") else "")
        )
    for name, elements in (("q_proj", heads * head_dim * hidden), ("down_proj", inner * hidden)):
        if elements <= SPLIT_ABOVE_ELEMENTS:
            raise CompileError(
                f"{name} has {elements} elements: the compiler splits weights of more than "
                f"{SPLIT_ABOVE_ELEMENTS}; spread the layers with num-device instead"
            )


def check_split(nets: Path, chips: int) -> None:
    """Every layer's net has an equal share for every chip. Raises CompileError.

    nets: the converter's output, with NET/NET_*_final.mlir below.
    """
    found = sorted(nets.glob("*/block*/*_final.mlir"))
    if not found:
        raise CompileError(f"the compiler left no description of a layer in {nets}")
    for path in found:
        sizes = [0] * chips
        for size, chip in _MODULE.findall(path.read_text(encoding="utf-8", errors="replace")):
            sizes[int(chip)] += int(size)
        if min(sizes) < (1 - _TOLERANCE) * max(sizes) or min(sizes) == 0:
            raise CompileError(
                f"net {path.parent.name} is not split: the chips' weights take {sizes} bytes"
            )
