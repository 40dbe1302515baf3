"""ChatGLM3-6B, with the frequencies of its 32k version."""

from __future__ import annotations

from functools import partial

from models.check.language import BUILDS, Build, LanguageFamily
from models.check.tokenizers import Kind
from tests.support import float_models, tiny_checkpoints

ROWS = tuple(
    LanguageFamily(
        name="chatglm3",
        checkpoint=partial(tiny_checkpoints.chatglm3, 50),
        reference=float_models.chatglm3,
        tokenizer=Kind("chatglm", "chatglm3-6b"),
        tools=True,
        builds=(
            *BUILDS,
            Build("w8f16", "PyTorch files, static", "--max-input 64", packing="torch"),
        ),
    ).rows()
)
