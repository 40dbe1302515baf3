"""Chat templates: Jinja programs that come with a model and turn a conversation into text.

They are rendered with the functions, filters and whitespace rules that the Hugging Face
`transformers` library gives them (documentation, "Writing a chat template"), in a sandbox, and up
to a size.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from tokenizer_svc.config_files import ConfigFiles, read_json
from tokenizer_svc.tokenizer import TokenizerConfigError
from tpuserve.errors import FeatureMissing, InvalidArgument

_log = logging.getLogger(__name__)

_DEFAULT: Final = "default"
_WITH_TOOLS: Final = "tool_use"
# What templates call the switch for thinking: Qwen3's name, DeepSeek's and Granite's.
_THINKING: Final = ("enable_thinking", "thinking")


class _Refused(jinja2.TemplateError):
    """The template called raise_exception."""


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's words for training; here it only groups."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """Compiled templates of one model. Thread-safe."""

    def __init__(
        self,
        sources: Mapping[str, str],
        *,
        variables: Mapping[str, object],
        max_characters: int,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """`sources` by name; "default" is used, or "tool_use" where tools are given.

        `variables` are the special tokens' texts by name (`bos_token` …). Raises
        TokenizerConfigError when a source is not a template.
        """
        environment = _environment(now)
        self._variables = dict(variables)
        self._max_characters = max_characters
        self._templates: dict[str, jinja2.Template] = {}
        self._free: dict[str, frozenset[str]] = {}
        for name, source in sources.items():
            try:
                self._templates[name] = environment.from_string(source)
                free = jinja2.meta.find_undeclared_variables(environment.parse(source))
            except jinja2.TemplateError as error:
                raise TokenizerConfigError(f"the chat template {name!r}: {error}") from error
            self._free[name] = frozenset(free)

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]],
        add_generation_prompt: bool,
        thinking: bool | None = None,
    ) -> str:
        """The text of a conversation.

        Raises InvalidArgument when the template refuses it or the text gets too long, and
        FeatureMissing when there are tools and the template has no place for them, or a choice
        about thinking and no switch.
        """
        name = _WITH_TOOLS if tools and _WITH_TOOLS in self._templates else _DEFAULT
        free = self._free[name]
        if tools and "tools" not in free:
            raise FeatureMissing("this model's chat template has no place for tools")
        if thinking is not None and free.isdisjoint(_THINKING):
            raise FeatureMissing("this model's chat template has no switch for thinking")
        switches = {} if thinking is None else dict.fromkeys(_THINKING, thinking)
        pieces = self._templates[name].generate(
            **self._variables,
            **switches,
            messages=messages,
            tools=tools or None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
        )
        text: list[str] = []
        length = 0
        try:
            for piece in pieces:
                text.append(piece)
                length += len(piece)
                if length > self._max_characters:
                    raise InvalidArgument(
                        "the conversation is longer than the limit of"
                        f" {self._max_characters} characters once it is put into the chat template",
                        field="messages",
                    )
        except _Refused as error:
            raise InvalidArgument(
                f"the chat template refuses the conversation: {error.message}", field="messages"
            ) from error
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            # An expression of the template met something that it was not written for.
            _log.info("chat template failed", extra={"reason": type(error).__name__})
            raise InvalidArgument(
                "the chat template cannot render this conversation", field="messages"
            ) from error
        return "".join(text)


def find_sources(files: ConfigFiles) -> dict[str, str]:
    """Template sources by name, {} where the model has none. Raises TokenizerConfigError.

    chat_template.jinja comes before chat_template.json before tokenizer_config.json.
    """
    path = files.path / "chat_template.jinja"
    if path.exists():
        try:
            return {_DEFAULT: path.read_text(encoding="utf-8")}
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerConfigError(f"{path}: {error}") from error
    path = files.path / "chat_template.json"
    found = read_json(path).get("chat_template")
    if found is None:
        path = files.path / "tokenizer_config.json"
        found = files.tokenizer.get("chat_template")
    if found is None:
        return {}
    if isinstance(found, str):
        return {_DEFAULT: found}
    try:
        sources = {str(entry["name"]): str(entry["template"]) for entry in found}
    except (TypeError, KeyError) as error:
        raise TokenizerConfigError(
            f"{path}: chat_template is neither a text nor a list of named templates"
        ) from error
    if _DEFAULT not in sources:
        names = ", ".join(sources) or "none"
        raise TokenizerConfigError(f"{path}: no chat template is named default (there are {names})")
    return sources


def _environment(now: Callable[[], datetime]) -> jinja2.Environment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationTag, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: now().strftime(form)
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: Jinja's own filter escapes for HTML. The signature is what templates call."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise _Refused(str(message))
