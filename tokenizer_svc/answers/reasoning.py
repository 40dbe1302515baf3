"""`<think>…</think>` at the beginning of an answer.

Source: the chat templates of Qwen3 and DeepSeek-R1. Some templates write the opening tag into the
prompt; the answer begins inside then.
"""

from __future__ import annotations

from typing import Final

from tokenizer_svc.answers.pieces import Sink
from tokenizer_svc.answers.reader import Reader
from tokenizer_svc.answers.tags import TagFinder

OPEN: Final = "<think>"
CLOSE: Final = "</think>"


class ThinkReader:
    """Reasoning goes to the sink, without the white space around it; the rest to `content`."""

    def __init__(self, sink: Sink, content: Reader, *, opened: bool) -> None:
        self._sink = sink
        self._content = content
        self._start = ""
        self._thinks = opened
        self._answers = False
        self._close = TagFinder(CLOSE)
        self._began = False
        self._space = ""

    def push(self, text: str) -> None:
        if self._answers:
            self._content.push(text)
        elif self._thinks:
            self._think(text)
        else:
            self._begin(self._start + text)

    def finish(self) -> None:
        if self._thinks and not self._answers:
            self._show(self._close.finish())
            self._sink.reasoning(self._space)
        elif not self._answers:
            self._content.push(self._start)
        self._content.finish()

    def _begin(self, text: str) -> None:
        visible = text.lstrip()
        if visible.startswith(OPEN):
            self._thinks = True
            self._think(visible.removeprefix(OPEN))
        elif OPEN.startswith(visible):
            self._start = text
        else:
            self._answers = True
            self._content.push(text)

    def _think(self, text: str) -> None:
        before, after = self._close.push(text)
        self._show(before)
        if after is None:
            return
        self._answers = True
        self._sink.gap()
        self._content.push(after)

    def _show(self, text: str) -> None:
        """White space at the end is held back: it may be the format's."""
        if not self._began:
            text = text.lstrip()
        if not text:
            return
        self._began = True
        text = self._space + text
        shown = text.rstrip()
        self._space = text[len(shown) :]
        self._sink.reasoning(shown)
