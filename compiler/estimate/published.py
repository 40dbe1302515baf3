"""`python -m compiler.estimate.published`: the estimate against figures measured on silicon.

The figures are the vendor's, from the README files of its sophon-demo project (SE7-32, one chip,
one request): Qwen, ChatGLM3 and Baichuan2. Their nets take whole prompts, so that one chunk is the
whole context, and their heads are not quantized. Where the README names no context, 512 is assumed.
"""

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compiler.environment import Environment, default_environment
from compiler.estimate.architecture import Architecture
from compiler.estimate.measure import Plan, measure
from compiler.estimate.predict import first_token_ms, predict

_QWEN_7B: Final = {
    "model_type": "qwen",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "vocab_size": 151936,
}
_CHATGLM3_6B: Final = {
    "model_type": "chatglm",
    "num_layers": 28,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "multi_query_group_num": 2,
    "kv_channels": 128,
    "ffn_hidden_size": 13696,
    "padded_vocab_size": 65024,
    "add_qkv_bias": True,
}
_BAICHUAN2_7B: Final = {
    "model_type": "baichuan",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "vocab_size": 125696,
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One published row."""

    model: str
    config: dict[str, Any]
    quantize: str
    seq_tokens: int
    first_token_s: float
    tokens_per_s: float


MEASURED: Final = (
    Measured("Qwen-7B", _QWEN_7B, "w4f16", 512, 0.739, 9.840),
    Measured("Qwen-7B", _QWEN_7B, "w4f16", 2048, 3.328, 7.245),
    Measured("ChatGLM3-6B", _CHATGLM3_6B, "f16", 512, 1.408, 4.067),
    Measured("ChatGLM3-6B", _CHATGLM3_6B, "w8f16", 512, 1.116, 8.184),
    Measured("ChatGLM3-6B", _CHATGLM3_6B, "w4f16", 512, 1.121, 12.822),
    Measured("Baichuan2-7B", _BAICHUAN2_7B, "w8f16", 512, 0.825, 5.510),
    Measured("Baichuan2-7B", _BAICHUAN2_7B, "w4f16", 512, 0.817, 7.603),
)


def compare(row: Measured, environment: Environment) -> str:
    """One line: predicted, published and their ratio, for decode and first token."""
    architecture = Architecture.of(row.config)
    plan = Plan(row.seq_tokens, row.seq_tokens, (1,), row.quantize, head="f16")
    work = Path(tempfile.mkdtemp(prefix="tpuserve-estimate-"))
    try:
        costs = measure(architecture, plan, environment, work)
    finally:
        shutil.rmtree(work)
    rate = predict(architecture, plan, costs)[0].tokens_per_s
    first_s = first_token_ms(architecture, plan, costs, row.seq_tokens) / 1000
    return (
        f"{row.model:13} {row.quantize:6} {row.seq_tokens:5d}  "
        f"{rate:6.2f} {row.tokens_per_s:6.2f} {rate / row.tokens_per_s:5.2f}  "
        f"{first_s:6.3f} {row.first_token_s:6.3f} {first_s / row.first_token_s:5.2f}"
    )


def main() -> int:
    environment = default_environment()
    environment.prepare()
    print("model         weights  seq   tok/s  publ. ratio  first s publ. ratio")
    for row in MEASURED:
        print(compare(row, environment), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
