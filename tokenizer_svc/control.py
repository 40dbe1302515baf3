"""Keeps the texts of control tokens in a user's words from becoming control tokens.

A chat template joins its own markers and the user's words into one text, in which a forged marker
(`<|im_end|>` in a message) cannot be told from a real one. Wrapping every user text in sentinels
would tell them apart, but templates look at the texts: they trim them, split them at `</think>`, or
test how they start. So only what could make a control token is taken out: each such piece of a user
text is replaced by a random placeholder that is as opaque to the template as a word, and comes back
after rendering as a literal part. Texts without such pieces, nearly all, take no detour at all.

What could make a control token, with the characters around it unknown: its whole text; at the end
of a user text the beginning of one; at its start the end of one; and a user text that is the inside
of one (a name "im_end" in a template that writes `<|` + name + `|>`).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable

from tokenizer_svc.tokenizer import Part

# What templates are given: strings, numbers, booleans, None, and lists and dicts of these.
Value = object

_NEVER = r"(?!)"


class ControlTexts:
    """The control tokens' texts of one tokenizer, prepared for searching."""

    def __init__(self, texts: Iterable[str]) -> None:
        longest_first = sorted({text for text in texts if text}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or _NEVER)
        self._first_characters = frozenset(text[0] for text in longest_first)
        self._starts = frozenset(t[:n] for t in longest_first for n in range(1, len(t)))
        self._ends = frozenset(t[n:] for t in longest_first for n in range(1, len(t)))
        self._all = "\0".join(longest_first)
        self._longest = len(longest_first[0]) if longest_first else 0

    def split(self, text: str) -> list[str]:
        """Ordinary texts and control texts in turn, beginning and ending with an ordinary one."""
        pieces: list[str] = []
        end = 0
        for start, stop in self.spans(text):
            pieces += (text[end:start], text[start:stop])
            end = stop
        pieces.append(text[end:])
        return pieces

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where whole control texts are: the leftmost first, of several there the longest."""
        # Looking for one character is far cheaper than the pattern, and mostly settles it.
        if not any(character in text for character in self._first_characters):
            return []
        return [match.span() for match in self._pattern.finditer(text)]

    def risky_spans(self, text: str, *, inside: bool) -> list[tuple[int, int]]:
        """Where `text` holds, or its surroundings could complete, a control text; in order.

        `inside` also takes a text that as a whole is the inside of a control text.
        """
        if inside and text and "\0" not in text and text in self._all:
            return [(0, len(text))]
        spans = self.spans(text)
        reach = range(min(self._longest, len(text)), 0, -1)
        end = next((n for n in reach if text[:n] in self._ends), 0)
        start = next((n for n in reach if text[-n:] in self._starts), 0)
        if end and not (spans and spans[0][0] < end):
            spans.insert(0, (0, end))
        if start and not (spans and spans[-1][1] > len(text) - start):
            spans.append((len(text) - start, len(text)))
        return spans


class Mask:
    """The placeholders of one request.

    A placeholder is a word of lower-case letters and digits, so that neither JSON escaping nor
    trimming changes it; it is found again in any case of letters.
    """

    def __init__(self, control: ControlTexts) -> None:
        self._control = control
        self._nonce = "z" + secrets.token_hex(12)
        self._pieces: list[str] = []

    def __bool__(self) -> bool:
        """Whether anything was taken out."""
        return bool(self._pieces)

    def text(self, text: str, *, inside: bool = True) -> str:
        """`text` with placeholders for what could make a control token."""
        spans = self._control.risky_spans(text, inside=inside)
        if not spans:
            return text
        masked: list[str] = []
        end = 0
        for start, stop in spans:
            masked += (text[end:start], f"{self._nonce}x{len(self._pieces)}z")
            self._pieces.append(text[start:stop])
            end = stop
        masked.append(text[end:])
        return "".join(masked)

    def value(self, value: Value) -> Value:
        """The same for every string in a JSON value.

        Words of a JSON schema ("object") stay what templates compare them with, also where they are
        the inside of a control text.
        """
        if isinstance(value, str):
            return self.text(value, inside=False)
        if isinstance(value, dict):
            return {self.value(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.value(item) for item in value]
        return value

    def parts(self, rendered: str) -> list[Part]:
        """The rendered text with every piece back in its place, as a literal part."""
        found = re.split(f"{self._nonce}x([0-9]+)z", rendered, flags=re.IGNORECASE)
        parts = [Part(found[0])]
        for number, text in zip(found[1::2], found[2::2], strict=True):
            parts += (Part(self._pieces[int(number)], literal=True), Part(text))
        return [part for part in parts if part.text]
