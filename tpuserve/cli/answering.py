"""Printing an answer while it is generated, and how fast it came."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

from tpuserve.client import Chunk, Delta, Finished


@dataclass(frozen=True, slots=True)
class Answer:
    """Seen from this side of the connection. `ftl_s` is the time to the first token."""

    text: str
    tokens: int
    ftl_s: float
    seconds: float
    finished: Finished | None

    @property
    def tokens_per_s(self) -> float:
        """Of all tokens but the first, which took the prefill; 0 with fewer than two."""
        rest_s = self.seconds - self.ftl_s
        return (self.tokens - 1) / rest_s if self.tokens > 1 and rest_s > 0 else 0.0


def show(chunks: Iterable[Chunk]) -> Answer:
    """Write the text of completion 0 to stdout as it comes, and end its line however it ends."""
    started_s = time.monotonic()
    first_s: float | None = None
    texts: list[str] = []
    tokens = 0
    finished: Finished | None = None
    try:
        for chunk in chunks:
            if isinstance(chunk, Delta) and chunk.index == 0:
                if first_s is None:
                    first_s = time.monotonic()
                tokens += len(chunk.token_ids)
                texts.append(chunk.text)
                sys.stdout.write(chunk.text)
                sys.stdout.flush()
            elif isinstance(chunk, Finished):
                finished = chunk
    finally:
        if texts:
            print(flush=True)
    ended_s = time.monotonic()
    return Answer(
        text="".join(texts),
        tokens=tokens if finished is None else finished.usage.completion_tokens,
        ftl_s=(first_s or ended_s) - started_s,
        seconds=ended_s - started_s,
        finished=finished,
    )
