"""Conversations to ids."""

from __future__ import annotations

from typing import Final, Protocol

from tokenizer_svc.answers.formats import AnswerFormats, detect
from tokenizer_svc.config_files import ConfigFiles
from tokenizer_svc.control import ControlTexts, Mask
from tokenizer_svc.conversation import Conversation
from tokenizer_svc.kinds import chatglm
from tokenizer_svc.kinds.sentencepiece import SentencePieceTokenizer
from tokenizer_svc.single_calls import has_parallel_calls, one_by_one
from tokenizer_svc.template import ChatTemplate, find_sources
from tokenizer_svc.tokenizer import Part, Tokenizer
from tpuserve.errors import InvalidArgument

# ChatML with the system text that Qwen v1 was trained with.
QWEN_V1_TEMPLATE: Final = """\
{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' or message.tool_calls %}
        {{- raise_exception('this model knows no tools') }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


class Chat(Protocol):
    """A model's way to write a conversation, and the formats that it answers in."""

    @property
    def answers(self) -> AnswerFormats: ...

    def encode(self, conversation: Conversation) -> list[int]:
        """Raises InvalidArgument or FeatureMissing, saying what the model does not take."""
        ...


class TemplateChat:
    """Renders a template; control tokens come from the template alone (see `control`)."""

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate, *, answers: AnswerFormats
    ) -> None:
        self.answers = answers
        self._tokenizer = tokenizer
        self._template = template
        self._control = ControlTexts(tokenizer.control_ids)

    def encode(self, conversation: Conversation) -> list[int]:
        try:
            return self._encode(conversation)
        except InvalidArgument:
            if not has_parallel_calls(conversation):
                raise
            # Llama 3's template is one of those that take a single call in a message.
            return self._encode(one_by_one(conversation))

    def _encode(self, conversation: Conversation) -> list[int]:
        mask = Mask(self._control)
        rendered = self._template.render(
            [message.for_template(mask) for message in conversation.messages],
            tools=[tool.for_template(mask) for tool in conversation.tools],
            add_generation_prompt=conversation.add_generation_prompt,
            thinking=conversation.thinking,
        )
        parts = mask.parts(rendered) if mask else [Part(rendered)]
        return self._tokenizer.encode_parts(parts)


def choose(files: ConfigFiles, tokenizer: Tokenizer, *, max_characters: int) -> Chat | None:
    """The model's own template, else the built-in format of its kind, else None.

    Raises TokenizerConfigError when a template does not compile.
    """
    if isinstance(tokenizer, SentencePieceTokenizer) and chatglm.is_chatglm3(files):
        return chatglm.ChatGlm3Chat(tokenizer)
    sources = find_sources(files)
    if not sources and tokenizer.kind == "tiktoken":
        sources = {"default": QWEN_V1_TEMPLATE}
    if not sources:
        return None
    variables = {**files.special, "additional_special_tokens": list(files.additional)}
    template = ChatTemplate(sources, variables=variables, max_characters=max_characters)
    return TemplateChat(tokenizer, template, answers=detect(sources.values()))
