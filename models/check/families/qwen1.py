"""Qwen v1: Qwen-1.8B, 7B and 14B-Chat."""

from __future__ import annotations

from models.check.language import LanguageFamily
from models.check.tokenizers import Kind
from tests.support import float_models, tiny_checkpoints

ROWS = tuple(
    LanguageFamily(
        name="qwen (v1)",
        checkpoint=tiny_checkpoints.qwen1,
        reference=float_models.qwen1,
        tokenizer=Kind("tiktoken", "qwen-v1"),
    ).rows()
)
