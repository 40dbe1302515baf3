"""Llama 3.1 and 3.2: stretched rotary frequencies, embeddings of the small ones tied."""

from __future__ import annotations

from models.check.language import LanguageFamily
from models.check.templates import LLAMA3_TOOLS
from models.check.tokenizers import Kind
from tests.support import float_models, llama_checkpoints

ROWS = tuple(
    LanguageFamily(
        name="llama3",
        checkpoint=llama_checkpoints.llama3,
        reference=float_models.qwen2,
        tokenizer=Kind("byte_level", template=LLAMA3_TOOLS),
        tools=True,
    ).rows()
)
