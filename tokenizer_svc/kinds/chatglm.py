"""ChatGLM3: a SentencePiece model, control tokens behind it, and a conversation format of its own.

Source: the tokenizer that was published with ChatGLM3-6B. A turn is the role's token, then the
metadata (a tool's name, mostly nothing) with a line feed, then the text; metadata and text are
encoded apart, so no text that a template could render has the same ids. The `chat_template` that
some copies of its tokenizer_config.json carry is therefore not used.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from tokenizer_svc.answers.formats import CHATGLM3, AnswerFormats
from tokenizer_svc.config_files import ConfigFiles
from tokenizer_svc.conversation import Conversation, Message, ToolCall
from tokenizer_svc.kinds.sentencepiece import Additions, SentencePieceTokenizer, load_processor
from tpuserve.errors import FeatureMissing

_CONTROL: Final = (
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "sop",
    "eop",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
)
_PREFIX: Final = ("[gMASK]", "sop")
# An answer ends where the user or a tool would speak.
_ENDS: Final = ("<|user|>", "<|observation|>")
_ROLES: Final = {
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
    "tool": "<|observation|>",
}
_TOOLS_INTRODUCTION: Final = (
    "Answer the following questions as best as you can. You have access to the following tools:"
)


def load(path: Path, files: ConfigFiles) -> SentencePieceTokenizer:
    """Raises TokenizerConfigError."""
    processor = load_processor(path)
    size = processor.get_piece_size()
    control = {text: size + offset for offset, text in enumerate(_CONTROL)}
    pieces = (i for i in range(size) if processor.is_control(i))
    return SentencePieceTokenizer(
        processor,
        Additions(
            control_ids={**{str(processor.id_to_piece(i)): i for i in pieces}, **control},
            added_ids={},
            before=tuple(control[text] for text in _PREFIX),
            after=(),
            bos_id=None,
            eos_ids=(processor.eos_id(), *(control[text] for text in _ENDS)),
            control_in_text=False,
        ),
    )


def is_chatglm3(files: ConfigFiles) -> bool:
    """ChatGLM2 names the same class, but talks in another format."""
    named = str(files.tokenizer.get("name_or_path", "")).lower()
    return files.tokenizer.get("tokenizer_class") == "ChatGLMTokenizer" and "chatglm2" not in named


class ChatGlm3Chat:
    """Encodes conversations piece by piece; no text of a message can become a control token."""

    answers: Final = AnswerFormats(tools=CHATGLM3)

    def __init__(self, tokenizer: SentencePieceTokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, conversation: Conversation) -> list[int]:
        if conversation.thinking is not None:
            raise FeatureMissing("this model's chat format has no switch for thinking")
        control = self._tokenizer.control_ids
        ids = [control[text] for text in _PREFIX]
        messages = conversation.messages
        if conversation.tools:
            first = messages[0] if messages[0].role == "system" else None
            introduction = first.content if first else _TOOLS_INTRODUCTION
            ids += self._turn("system", introduction + "\n" + _tools_text(conversation))
            messages = messages[1:] if first else messages
        for message in messages:
            ids += self._message(message)
        if conversation.add_generation_prompt:
            ids.append(control[_ROLES["assistant"]])
        return ids

    def _message(self, message: Message) -> list[int]:
        ids: list[int] = []
        if message.content or not message.tool_calls:
            ids += self._turn(message.role, message.content)
        for call in message.tool_calls:
            ids += self._turn("assistant", _call_text(call), metadata=call.name)
        return ids

    def _turn(self, role: str, text: str, *, metadata: str = "") -> list[int]:
        encode = self._tokenizer.encode
        return [
            self._tokenizer.control_ids[_ROLES[role]],
            *encode(metadata + "\n", add_special_tokens=False),
            *encode(text, add_special_tokens=False),
        ]


def _tools_text(conversation: Conversation) -> str:
    tools = [tool.described() for tool in conversation.tools]
    return json.dumps(tools, indent=4, ensure_ascii=False)


def _call_text(call: ToolCall) -> str:
    arguments = call.arguments
    if isinstance(arguments, dict):
        arguments = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return f"```python\ntool_call({arguments})\n```"
