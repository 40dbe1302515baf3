"""From a config directory to a tokenizer that is ready to serve."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tokenizer_svc import chat, config_files, info
from tokenizer_svc.answers.formats import REASONING_PARSERS, TOOL_PARSERS, AnswerFormats
from tokenizer_svc.chat import Chat
from tokenizer_svc.config_files import ConfigFiles
from tokenizer_svc.conversation import Conversation, Message
from tokenizer_svc.info import Defaults
from tokenizer_svc.kinds import chatglm, huggingface, sentencepiece, tiktoken
from tokenizer_svc.tokenizer import Tokenizer, TokenizerConfigError
from tpuserve.errors import TpuserveError
from tpuserve.images.rules import ImageRules, ImageRulesError, read_rules

_WARM_UP_TEXT: Final = "Hello, world! 你好 🙂 1234\n"


@dataclass(frozen=True, slots=True)
class LoadedTokenizer:
    """Everything that the service knows about its model; `chat` is None without a chat format.

    `answers` are the formats of its answers. `images` is None for a model that reads text only.
    """

    tokenizer: Tokenizer
    chat: Chat | None
    eos_ids: tuple[int, ...]
    defaults: Defaults
    config_sha256: str
    answers: AnswerFormats
    images: ImageRules | None = None


def load(
    config: Path,
    *,
    max_characters: int,
    tool_parser: str | None = None,
    reasoning_parser: str | None = None,
) -> LoadedTokenizer:
    """Reads, checks and warms up. Raises TokenizerConfigError naming the file that is wrong.

    `max_characters` bounds a rendered conversation. The parsers' names replace what the chat
    template tells about the answers' formats.
    """
    files = config_files.read(config)
    tokenizer = _pick(config, files)
    conversations = chat.choose(files, tokenizer, max_characters=max_characters)
    loaded = LoadedTokenizer(
        tokenizer=tokenizer,
        chat=conversations,
        eos_ids=info.eos_ids(files, tokenizer),
        defaults=info.defaults(files),
        config_sha256=config_files.sha256(config),
        answers=_answers(conversations, tool_parser, reasoning_parser),
        images=_image_rules(config),
    )
    _warm_up(loaded)
    return loaded


def _image_rules(config: Path) -> ImageRules | None:
    try:
        return read_rules(config)
    except ImageRulesError as error:
        raise TokenizerConfigError(str(error)) from error


def _pick(config: Path, files: ConfigFiles) -> Tokenizer:
    """The richest file wins: tokenizer.json says all, the others leave parts to convention."""
    if (config / "tokenizer.json").exists():
        return huggingface.load_json(config / "tokenizer.json", files)
    ranks = sorted(config.glob("*.tiktoken"))
    if len(ranks) > 1:
        names = ", ".join(path.name for path in ranks)
        raise TokenizerConfigError(f"{config} holds {len(ranks)} tiktoken files ({names})")
    if ranks:
        return tiktoken.load(ranks[0])
    if (config / "vocab.json").exists() and (config / "merges.txt").exists():
        return huggingface.load_gpt2(config / "vocab.json", config / "merges.txt", files)
    model = config / "tokenizer.model"
    if model.exists():
        if files.tokenizer.get("tokenizer_class") == "ChatGLMTokenizer":
            return chatglm.load(model, files)
        return sentencepiece.load(model, files)
    raise TokenizerConfigError(
        f"{config} holds no tokenizer: none of tokenizer.json, *.tiktoken, vocab.json with"
        " merges.txt, tokenizer.model"
    )


def _answers(
    conversations: Chat | None, tool_parser: str | None, reasoning_parser: str | None
) -> AnswerFormats:
    answers = AnswerFormats() if conversations is None else conversations.answers
    for key, value, known in (
        ("tool_parser", tool_parser, TOOL_PARSERS),
        ("reasoning_parser", reasoning_parser, REASONING_PARSERS),
    ):
        if value is not None and value not in known:
            raise TokenizerConfigError(f"{key} is {value!r}, must be one of {', '.join(known)}")
    return replace(
        answers,
        tools=tool_parser or answers.tools,
        reasoning=reasoning_parser or answers.reasoning,
    )


def _warm_up(loaded: LoadedTokenizer) -> None:
    """Runs every path once, so that the first request meets no lazy set-up."""
    tokenizer = loaded.tokenizer
    try:
        ids = tokenizer.encode(_WARM_UP_TEXT, add_special_tokens=True)
    except Exception as error:
        raise TokenizerConfigError(f"the tokenizer cannot encode a text: {error}") from error
    decoder = tokenizer.detokenizer(keep_special_tokens=False)
    decoder.push(ids)
    decoder.finish()
    if loaded.chat is not None:
        try:
            loaded.chat.encode(Conversation((Message("user", _WARM_UP_TEXT),)))
        except TpuserveError:
            # A template may ask for more than one user message.
            return
