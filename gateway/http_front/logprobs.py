"""Logprobs in the two forms of the OpenAI API."""

from __future__ import annotations

from typing import Final

from gateway.request import TokenLogprob

# JSON has no infinity; OpenAI's number for "never".
_NEVER: Final = -9999.0


def chat_logprobs(entries: list[TokenLogprob]) -> dict[str, object]:
    return {
        "content": [
            {
                **_entry(entry.token, entry.logprob),
                "top_logprobs": [_entry(c.token, c.logprob) for c in entry.top],
            }
            for entry in entries
        ],
        "refusal": None,
    }


def completion_logprobs(entries: list[TokenLogprob], *, offset: int) -> dict[str, object]:
    """`offset` is where the first token starts, in characters of the completion's text."""
    tokens = [_text(entry.token) for entry in entries]
    offsets: list[int] = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [_number(entry.logprob) for entry in entries],
        "top_logprobs": [
            {
                **{_text(c.token): _number(c.logprob) for c in entry.top},
                _text(entry.token): _number(entry.logprob),
            }
            for entry in entries
        ],
        "text_offset": offsets,
    }


def token_chars(entries: list[TokenLogprob]) -> int:
    return sum(len(_text(entry.token)) for entry in entries)


def _entry(token: bytes, logprob: float) -> dict[str, object]:
    return {"token": _text(token), "logprob": _number(logprob), "bytes": list(token)}


def _text(token: bytes) -> str:
    return token.decode(errors="replace")


def _number(logprob: float) -> float:
    return max(logprob, _NEVER)
