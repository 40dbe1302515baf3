"""Qwen2 and Qwen2.5, with every quantization and packing that there is."""

from __future__ import annotations

from models.check.language import BUILDS, Build, LanguageFamily
from models.check.templates import CHATML_TOOLS
from models.check.tokenizers import Kind
from tests.support import float_models, llama_checkpoints

ROWS = tuple(
    LanguageFamily(
        name="qwen2",
        checkpoint=llama_checkpoints.qwen2,
        reference=float_models.qwen2,
        tokenizer=Kind("byte_level", template=CHATML_TOOLS),
        tools=True,
        builds=(
            *BUILDS,
            Build("w8bf16", "history, chunks, batch 4", "--history --chunk 32 --batch 4"),
            Build("w4bf16", "dynamic", "--dynamic --max-input 64"),
            Build("w4f16", "GPTQ, history, chunks", "--history --chunk 32", packing="gptq"),
            Build("w4f16", "AWQ, batch 2", "--batch 2", packing="awq"),
        ),
    ).rows()
)
