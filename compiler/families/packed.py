"""Checkpoints whose linear layers are stored in 4 bits: GPTQ and AWQ.

The converter takes the stored levels, zeros and scales over as they are. Eight levels share an
int32: GPTQ packs the inputs of a layer and stores each zero less one, AWQ packs its outputs.
"""

from collections.abc import Mapping
from typing import Any, Final

from compiler.errors import CompileError

QUANTIZE: Final = "w4f16"
_METHODS: Final = ("gptq", "awq")
_PER_WORD: Final = 8
# Stored beside the levels, and in order unless desc_act is set.
BUFFERS: Final = r"\.g_idx$"


def is_packed(config: Mapping[str, Any]) -> bool:
    return bool(config.get("quantization_config"))


def check(config: Mapping[str, Any], quantize: str) -> None:
    """Raises CompileError for a packing that is not read, or another `quantize` than it has."""
    settings = config["quantization_config"]
    method = settings.get("quant_method")
    if method not in _METHODS:
        raise CompileError(
            f"the checkpoint is quantized with {method!r}, known are {', '.join(_METHODS)}: "
            f"compile the float checkpoint that it was made of, with --quantize {QUANTIZE}"
        )
    wanted = {"bits": 4, "desc_act": False, "version": "gemm", "checkpoint_format": "gptq"}
    for key, value in wanted.items():
        if str(settings.get(key, value)).lower() != str(value).lower():
            raise CompileError(f"{key} of the {method} checkpoint is {settings[key]}, not {value}")
    if int(settings.get("group_size", 0)) < 1:
        raise CompileError(f"group_size of the {method} checkpoint must be positive")
    if quantize != QUANTIZE:
        raise CompileError(
            f"the checkpoint holds 4-bit {method} weights: quantize must be {QUANTIZE}, "
            f"not {quantize}"
        )


def shapes(
    config: Mapping[str, Any], path: str, out: int, inner: int
) -> dict[str, tuple[int, ...]]:
    """What stands in place of the weight [out, inner] of the linear layer `path`."""
    settings = config["quantization_config"]
    groups = inner // int(settings["group_size"])
    packs_inputs = settings["quant_method"] == "gptq"
    levels = (inner // _PER_WORD, out) if packs_inputs else (inner, out // _PER_WORD)
    return {
        f"{path}.qweight": levels,
        f"{path}.qzeros": (groups, out // _PER_WORD),
        f"{path}.scales": (groups, out),
    }
