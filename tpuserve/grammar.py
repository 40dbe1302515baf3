"""From an output format to a grammar of the llguidance library, or what is wrong with it."""

from __future__ import annotations

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, cast

from llguidance import LLMatcher, regex_to_lark
from llguidance.gbnf_to_lark import gbnf_to_lark

from tpuserve.errors import InvalidArgument
from tpuserve.output_format import FormatKind, OutputFormat

MAX_TEXT_BYTES: Final = 256 * 1024
MAX_CHOICES: Final = 1000
_DEEPEST_JSON: Final = 64
# Between the tokens of a JSON text: nothing or a space. White space without end is what a model
# writes when it does not know how to go on.
_WHITE_SPACE: Final = " "
# Without it only one way to cut forced text into tokens is allowed, which needs an encoder of texts
# where the grammar is applied.
_ANY_TOKENS: Final = '\n%llguidance {"no_forcing": true}\n'
_LONGEST_REASON: Final = 500
# The library follows rules that refer to rules by recursion: ten thousand of them, as a long
# grammar may have, take 64 MiB of stack. Only what is used takes memory.
_STACK_BYTES: Final = 256 * 2**20
_GBNF_ROOT: Final = re.compile(r"^\s*root\s*::=", re.MULTILINE)


def executor(name: str) -> ThreadPoolExecutor:
    """One thread whose stack is deep enough for every grammar within the limits; all grammars are
    checked and compiled on such threads only.
    """
    usual_bytes = threading.stack_size(_STACK_BYTES)
    try:
        pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        # The thread is made now, while the size holds.
        pool.submit(int).result()
    finally:
        threading.stack_size(usual_bytes)
    return pool


def lark_of(output_format: OutputFormat) -> str:
    """The grammar in llguidance's Lark syntax; the same format gives the same text.

    Raises InvalidArgument for sizes beyond the limits and for what is no JSON or GBNF. Whether the
    grammar itself is right is for `check_lark` or a matcher to say.
    """
    kind, text = output_format.kind, output_format.text
    _check_size(kind, sum(len(t.encode()) for t in (text, *output_format.choices)))
    if kind is FormatKind.JSON_SCHEMA:
        rules = _schema(_object(text))
    elif kind is FormatKind.JSON_OBJECT:
        rules = _schema({"type": "object"})
    elif kind is FormatKind.REGEX:
        rules = _regex(text)
    elif kind is FormatKind.CHOICE:
        rules = _choice(output_format.choices)
    else:
        rules = _grammar(text)
    return rules + _ANY_TOKENS


def check_lark(lark: str, kind: FormatKind) -> None:
    """Raises InvalidArgument with the reason. Blocks for up to a second; releases the GIL.

    Tokens that the grammar names are not looked up: that takes the vocabulary.
    """
    failed, messages = LLMatcher.validate_grammar_with_warnings(LLMatcher.grammar_from_lark(lark))
    if failed:
        raise InvalidArgument(f"{kind.value}: {reason_of(messages[0])}", field="output_format")


def reason_of(message: str) -> str:
    """The first words of a message of the library, without the excerpt of the grammar."""
    lines = message.split("\n   1 |")[0].split("\n  1 |")[0]
    schema = lines.find("failed to compile JSON schema: ")
    if schema >= 0:
        lines = lines[schema + len("failed to compile JSON schema: ") :]
    return " ".join(lines.replace("<non-verbose/>", "").split())[:_LONGEST_REASON]


def _check_size(kind: FormatKind, size_bytes: int) -> None:
    if kind is not FormatKind.JSON_OBJECT and not 0 < size_bytes <= MAX_TEXT_BYTES:
        raise InvalidArgument(
            f"{kind.value} has {size_bytes} bytes; it must have 1 to {MAX_TEXT_BYTES}",
            field="output_format",
        )


def _object(text: str) -> dict[str, Any]:
    try:
        schema = json.loads(text)
        _check_depth(schema, _DEEPEST_JSON)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise InvalidArgument(f"json_schema is not JSON: {error}", field="output_format") from error
    if not isinstance(schema, dict):
        raise InvalidArgument("json_schema must be a JSON object", field="output_format")
    return cast("dict[str, Any]", schema)


def _check_depth(value: Any, levels: int) -> None:
    if levels == 0:
        raise _too_deep()
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, levels - 1)


def _too_deep() -> InvalidArgument:
    return InvalidArgument(
        f"json_schema is nested more than {_DEEPEST_JSON} levels deep", field="output_format"
    )


def _schema(schema: dict[str, Any]) -> str:
    said = schema.get("x-guidance")
    options = said if isinstance(said, dict) else {}
    if "whitespace_flexible" not in options:
        options = {"whitespace_pattern": _WHITE_SPACE, **options}
    return "start: %json " + json.dumps({**schema, "x-guidance": options})


def _regex(text: str) -> str:
    # A digit is 0 to 9, as most readers of the answer take it; a word may be in any script.
    return f"start: /{regex_to_lark(text, use_ascii='d')}/"


def _choice(texts: tuple[str, ...]) -> str:
    if len(texts) > MAX_CHOICES:
        raise InvalidArgument(
            f"choice has {len(texts)} texts, at most {MAX_CHOICES}", field="output_format"
        )
    for number, text in enumerate(texts):
        if not text:
            raise InvalidArgument(f"choice[{number}] is empty", field="output_format")
    return "start: " + " | ".join(json.dumps(text) for text in texts)


def _grammar(text: str) -> str:
    if _GBNF_ROOT.search(text) is None:
        return text
    try:
        return gbnf_to_lark(text)
    except Exception as error:
        # The library raises plain Exception.
        raise InvalidArgument(
            f"grammar is not valid GBNF: {reason_of(str(error))}", field="output_format"
        ) from error
