"""Qwen3: heads are normed, embeddings of the small ones tied."""

from __future__ import annotations

from models.check.language import ARGMAX, BUILDS, LanguageFamily
from models.check.templates import CHATML_TOOLS
from models.check.tokenizers import Kind
from tests.support import float_models, llama_checkpoints

ROWS = tuple(
    LanguageFamily(
        name="qwen3",
        checkpoint=llama_checkpoints.qwen3,
        reference=float_models.qwen2,
        tokenizer=Kind("byte_level", "qwen3", CHATML_TOOLS),
        tools=True,
        builds=(*BUILDS, ARGMAX),
    ).rows()
)
