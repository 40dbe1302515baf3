"""What comes out of an answer's text, and where the readers put it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of the answer's call number `index`; the first one of a call has the name.

    The `arguments` of a call's pieces join to a JSON object, unless the model erred. `complete`:
    no more pieces of this call follow.
    """

    index: int
    name: str = ""
    arguments: str = ""
    complete: bool = False


@dataclass(frozen=True, slots=True)
class AnswerPiece:
    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()


class Sink:
    """Collects what the readers find, until it is taken.

    White space between calls, and between them, the reasoning and the text, is the format's and not
    the answer's; texts before and behind a call are two lines. `trims` holds white space at the end
    of the text back until it is known whether a call follows. With `single_call` nothing is
    collected behind the first complete call.
    """

    def __init__(self, *, trims: bool, single_call: bool) -> None:
        self.answered = False
        self._trims = trims
        self._single_call = single_call
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[CallPiece] = []
        self._opened_calls = 0
        self._held = ""
        self._after_gap = False
        self._has_text = False

    def gap(self) -> None:
        """White space here, before and behind, is not part of the text."""
        self._held = ""
        self._after_gap = True

    def text(self, text: str) -> None:
        if self._after_gap:
            text = text.lstrip()
        if not text or self.answered:
            return
        if self._after_gap and self._has_text:
            text = "\n" + text
        self._after_gap = False
        self._has_text = True
        if self._trims:
            text = self._held + text
            shown = text.rstrip()
            self._held = text[len(shown) :]
            text = shown
        if text:
            self._text.append(text)

    def reasoning(self, text: str) -> None:
        if text:
            self._reasoning.append(text)

    def open_call(self, name: str) -> None:
        self.gap()
        self._put(CallPiece(self._opened_calls, name))
        self._opened_calls += 1

    def arguments(self, text: str) -> None:
        """More of the call that was opened last."""
        if text:
            self._put(CallPiece(self._opened_calls - 1, arguments=text))

    def close_call(self) -> None:
        self._put(CallPiece(self._opened_calls - 1, complete=True))
        if self._single_call:
            self.answered = True

    def call(self, name: str, arguments: str) -> None:
        """A whole call."""
        self.open_call(name)
        self.arguments(arguments)
        self.close_call()

    def finish(self) -> None:
        """The text has ended: what is held back belongs to it."""
        if self._held and not self.answered:
            self._text.append(self._held)
        self._held = ""

    def take(self) -> AnswerPiece:
        """What has come since the last time."""
        piece = AnswerPiece("".join(self._text), "".join(self._reasoning), tuple(self._calls))
        self._text.clear()
        self._reasoning.clear()
        self._calls.clear()
        return piece

    def _put(self, piece: CallPiece) -> None:
        if self.answered:
            return
        if self._calls and self._calls[-1].index == piece.index:
            last = self._calls.pop()
            piece = CallPiece(
                piece.index,
                last.name + piece.name,
                last.arguments + piece.arguments,
                piece.complete,
            )
        self._calls.append(piece)
