"""Which groups of weights can share a scale."""

from collections.abc import Mapping
from typing import Any

from compiler.errors import CompileError


def check_group_size(config: Mapping[str, Any], quantize: str, group_size: int) -> None:
    """Raises CompileError when 4-bit groups do not fill the rows of a layer's matrices.

    The converter then leaves such a matrix in 16 bits, without a word: right numbers at four times
    the memory and traffic. `config` is the converter's.
    """
    if not quantize.startswith("w4"):
        return
    if group_size < 1:
        raise CompileError(f"group-size is {group_size}, must be positive")
    text = config.get("text_config", config)
    heads, hidden = int(text["num_attention_heads"]), int(text["hidden_size"])
    widths = {
        "hidden_size": hidden,
        "intermediate_size": int(text["intermediate_size"]),
        "heads times head_dim": heads * int(text.get("head_dim") or hidden // heads),
    }
    for name, width in widths.items():
        if width % group_size:
            raise CompileError(
                f"group-size is {group_size}, must divide the model's {name} ({width})"
            )
