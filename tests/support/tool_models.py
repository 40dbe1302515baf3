"""Models that know tools, without weights: a tiny tokenizer and the chat format of a family.

The templates are ours and short; they have the parts that the published ones are known by.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

from tests.unit.tokenizer_svc.tiny_tokenizers import make_byte_level, make_chatglm

QWEN_TEMPLATE: Final = """\
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Call with <tool_call>{"name": …, "arguments": …}</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ 'user' if message.role == 'tool' else message.role }}
{% if message.role == 'tool' %}<tool_response>{{ message.content }}</tool_response>
{%- else %}{{ message.content }}{% endif %}
{%- if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}"""

LLAMA_TEMPLATE: Final = """\
{%- for tool in tools or [] %}Respond in the format {"name": function name, "parameters": \
dictionary of argument name and its value}: {{ tool | tojson }}
{% endfor %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.tool_calls %}{% set call = message.tool_calls[0].function -%}
{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}
{%- else %}{{ message.content }}{% endif %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

DEMO: Final = Path(__file__).resolve().parents[2] / "models" / "demo"
FAMILIES: Final = ("qwen", "llama3", "chatglm3")


def make_config(path: Path, family: str) -> None:
    """The config directory of a model of the family."""
    if family == "chatglm3":
        make_chatglm(path)
        return
    make_byte_level(path)
    template = QWEN_TEMPLATE if family == "qwen" else LLAMA_TEMPLATE
    (path / "chat_template.jinja").write_text(template, encoding="utf-8")


def call_text(family: str, name: str, arguments: dict[str, object]) -> str:
    """A call as a model of the family writes it."""
    if family == "chatglm3":
        keywords = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        return f"{name}\n ```python\ntool_call({keywords})\n```"
    key = "arguments" if family == "qwen" else "parameters"
    call = json.dumps({"name": name, key: arguments})
    return f"<tool_call>\n{call}\n</tool_call>" if family == "qwen" else call


def make_demo(path: Path) -> None:
    """A model directory: the demo model's bmodel and tokenizer, with the Qwen template."""
    shutil.copytree(DEMO / "config", path / "config")
    shutil.copy(DEMO / "demo_f16.bmodel", path)
    (path / "config" / "chat_template.jinja").write_text(QWEN_TEMPLATE, encoding="utf-8")
