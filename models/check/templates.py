"""Chat templates for small tokenizers, in the forms that the families' parsers know."""

from __future__ import annotations

from typing import Final

# ChatML with tools as Qwen2.5, Qwen3 and Hermes write them.
CHATML_TOOLS: Final = """\
{%- if tools -%}<|im_start|>system
Tools: {% for tool in tools %}{{ tool | tojson }}
{% endfor %}Call one as <tool_call>{"name": .., "arguments": {..}}</tool_call><|im_end|>
{% endif -%}
{%- for m in messages -%}<|im_start|>{{ m['role'] }}
{{ m['content'] }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif %}"""

# Tools as Llama 3.1 and later write them.
LLAMA3_TOOLS: Final = """\
{%- if tools -%}<|im_start|>system
Answer with {"name": function name, "parameters": dictionary of argument name and its value}:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif -%}
{%- for m in messages -%}<|im_start|>{{ m['role'] }}
{{ m['content'] }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif %}"""
