"""What is checked: a module with `ROWS` for each family."""

from __future__ import annotations

from models.check.families import (
    chatglm3,
    deployments,
    gpt_bigcode,
    llama3,
    mllama,
    qwen1,
    qwen2,
    qwen3,
)
from models.check.row import Row

ROWS: tuple[Row, ...] = (
    *gpt_bigcode.ROWS,
    *qwen1.ROWS,
    *chatglm3.ROWS,
    *qwen2.ROWS,
    *qwen3.ROWS,
    *llama3.ROWS,
    *mllama.ROWS,
    *deployments.ROWS,
)
