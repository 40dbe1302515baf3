"""Reading whole answers in given pieces."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizer_svc.answers.formats import AnswerFormats, AnswerReader, Opening

FUNCTIONS = ("get_weather", "get_time", "g")


@dataclass(frozen=True)
class Whole:
    """Everything that came of an answer; of each call its name, arguments and completeness."""

    text: str
    reasoning: str
    calls: list[tuple[str, str, bool]]

    @property
    def parsed(self) -> list[tuple[str, Any]]:
        assert all(complete for _, _, complete in self.calls)
        return [(name, json.loads(arguments)) for name, arguments, _ in self.calls]


def read(
    text: str,
    *,
    tools: str = "none",
    reasoning: str = "none",
    thinks: bool = False,
    functions: Sequence[str] = FUNCTIONS,
    single_call: bool = False,
    cuts: Sequence[int] = (),
) -> Whole:
    """`cuts` are the positions at which the text is cut."""
    reader = AnswerReader(
        AnswerFormats(tools, reasoning), Opening(functions, single_call), thinks=thinks, tags={}
    )
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    shown, thought = "", ""
    calls: list[tuple[str, str, bool]] = []
    for start, end in itertools.pairwise(edges):
        reader.push(text[start:end])
        if end == len(text):
            reader.finish()
        piece = reader.take()
        shown += piece.text
        thought += piece.reasoning
        for call in piece.calls:
            if call.index == len(calls):
                assert call.name in functions, "a call's first piece has its name"
                calls.append((call.name, "", False))
            else:
                assert call.index == len(calls) - 1, "one call after the other"
                assert not call.name
            name, arguments, complete = calls[-1]
            assert not complete, "nothing follows a complete call"
            calls[-1] = (name, arguments + call.arguments, call.complete)
    return Whole(shown, thought, calls)
