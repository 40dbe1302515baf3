"""Which model types are rewritten before they are converted."""

from collections.abc import Mapping
from types import MappingProxyType

from compiler.families.chatglm import CHATGLM
from compiler.families.family import Family
from compiler.families.gpt_bigcode import GPT_BIGCODE
from compiler.families.mllama import MLLAMA
from compiler.families.qwen1 import QWEN1

# By `model_type` of config.json.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"qwen": QWEN1, "chatglm": CHATGLM, "gpt_bigcode": GPT_BIGCODE, "mllama": MLLAMA}
)
