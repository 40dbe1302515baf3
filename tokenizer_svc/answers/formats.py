"""Which formats a model's answers have, and the readers for them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tokenizer_svc.answers import chatglm, llama, qwen, reasoning
from tokenizer_svc.answers.pieces import AnswerPiece, Sink
from tokenizer_svc.answers.reader import Reader
from tokenizer_svc.tokenizer import Tokenizer

NONE: Final = "none"
QWEN: Final = "qwen"
LLAMA3: Final = "llama3"
CHATGLM3: Final = "chatglm3"
THINK: Final = "think"
TOOL_PARSERS: Final = (QWEN, LLAMA3, CHATGLM3, NONE)
REASONING_PARSERS: Final = (THINK, NONE)

# Tags that make a template's `<tool_call>` another format than a JSON object.
_OTHER_TAGGED: Final = ("<function=", "<arg_key>")
_LLAMA_SIGNS: Final = (llama.TAG, '"parameters": dictionary')
_TAGS: Final = {
    QWEN: (qwen.OPEN, qwen.CLOSE),
    LLAMA3: (llama.TAG,),
    CHATGLM3: (chatglm.TURN,),
    THINK: (reasoning.OPEN, reasoning.CLOSE),
    NONE: (),
}


@dataclass(frozen=True, slots=True)
class AnswerFormats:
    """`tools` is of TOOL_PARSERS, `reasoning` of REASONING_PARSERS."""

    tools: str = NONE
    reasoning: str = NONE

    def tags(self, tokenizer: Tokenizer) -> dict[int, str]:
        """Texts of the formats' tags that are control tokens, which a decoder would not show."""
        texts = (*_TAGS[self.tools], *_TAGS[self.reasoning])
        control = tokenizer.control_ids
        return {control[text]: text for text in texts if text in control}


def detect(templates: Iterable[str]) -> AnswerFormats:
    """By what a model's chat templates say. ChatGLM3 has no template and is known by its kind."""
    source = "\n".join(templates)
    tools = NONE
    if qwen.OPEN in source:
        tools = NONE if any(tag in source for tag in _OTHER_TAGGED) else QWEN
    elif any(sign in source for sign in _LLAMA_SIGNS):
        tools = LLAMA3
    return AnswerFormats(tools, THINK if reasoning.CLOSE in source else NONE)


def prompt_thinks(prompt_end: str) -> bool:
    """Whether a prompt with this end has opened the reasoning."""
    return prompt_end.rstrip().endswith(reasoning.OPEN)


@dataclass(frozen=True, slots=True)
class Opening:
    """What a request wants of its answer: calls of these functions, one or several."""

    functions: Sequence[str] = ()
    single_call: bool = False


class AnswerReader:
    """One answer: text in pieces of any size, in order; `take` gives what they have come to."""

    def __init__(
        self, formats: AnswerFormats, opening: Opening, *, thinks: bool, tags: Mapping[int, str]
    ) -> None:
        """`thinks`: the prompt has opened the reasoning. `tags`: as `AnswerFormats.tags`."""
        functions = frozenset(opening.functions) if formats.tools != NONE else frozenset()
        self.tags = tags
        self.single_call = opening.single_call and bool(functions)
        self._sink = Sink(trims=bool(functions), single_call=opening.single_call)
        self._reader = _content(formats.tools, self._sink, functions)
        if formats.reasoning == THINK:
            self._reader = reasoning.ThinkReader(self._sink, self._reader, opened=thinks)

    @property
    def answered(self) -> bool:
        """The single call is complete: nothing more is read."""
        return self._sink.answered

    def push(self, text: str) -> None:
        if text:
            self._reader.push(text)

    def finish(self) -> None:
        self._reader.finish()
        self._sink.finish()

    def take(self) -> AnswerPiece:
        return self._sink.take()


class _Plain:
    """All is text."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def push(self, text: str) -> None:
        self._sink.text(text)

    def finish(self) -> None:
        return


def _content(tools: str, sink: Sink, functions: Collection[str]) -> Reader:
    if tools == CHATGLM3:
        # The metadata line is there without functions as well.
        return chatglm.ChatGlmReader(sink, functions)
    if tools == QWEN and functions:
        return qwen.QwenReader(sink, functions)
    if tools == LLAMA3 and functions:
        return llama.LlamaReader(sink, functions)
    return _Plain(sink)
