"""Facts of the Qwen v1 vocabulary, which its tiktoken file does not hold.

Source: the tokenizer that was published with Qwen-7B.
"""

from __future__ import annotations

from typing import Final

# How a text is cut before bytes are merged; Qwen2 cuts in the same way.
CUT_PATTERN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)

END_OF_TEXT: Final = "<|endoftext|>"
TURN_START: Final = "<|im_start|>"
TURN_END: Final = "<|im_end|>"
EXTRA_TOKENS: Final = 205


def control_ids(first_id: int) -> dict[str, int]:
    """The control tokens follow the merged ones without a gap."""
    extras = (f"<|extra_{number}|>" for number in range(EXTRA_TOKENS))
    texts = (END_OF_TEXT, TURN_START, TURN_END, *extras)
    return {text: first_id + offset for offset, text in enumerate(texts)}
