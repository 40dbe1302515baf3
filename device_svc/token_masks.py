"""Which tokens the rows of a step may yield, found while the chip computes their logits."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from device_svc.engine_api import TokenMask

# More rows than this at once are found one after another.
MASK_THREADS: Final = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Complete:
    """The text is whole and nothing may follow it."""


@dataclass(frozen=True, slots=True)
class Stuck:
    """No token may come next, and the text is not whole; `reason` is for the client."""

    reason: str


NextTokens: TypeAlias = TokenMask | Complete | Stuck


class Matcher(Protocol):
    """Where one request's text stands in its output format. One thread at a time."""

    def next_tokens(self) -> NextTokens: ...

    def accept(self, token: int) -> bool:
        """Take a drawn token; whether the text is complete with it and nothing may follow."""


def start(
    matchers: Sequence[Matcher | None], pool: Executor | None
) -> Callable[[], list[NextTokens | None]]:
    """Begin to find what each may yield, None for all tokens; the result waits for it.

    Without a pool, or without a matcher, all is done in the result's call.
    """

    def find() -> list[NextTokens | None]:
        return [None if matcher is None else matcher.next_tokens() for matcher in matchers]

    if pool is None or not any(matchers):
        return find
    work = [None if m is None else pool.submit(m.next_tokens) for m in matchers]
    return lambda: [None if future is None else future.result() for future in work]
