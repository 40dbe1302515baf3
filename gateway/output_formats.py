"""What a request's output format needs: a check before it is queued, and the model's vocabulary."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from tpuserve import grammar
from tpuserve.errors import Overloaded
from tpuserve.output_format import OutputFormat

_MAX_PENDING: Final = 64
_REMEMBERED: Final = 1024


@dataclass(frozen=True, slots=True, eq=False)
class WireVocabulary:
    """A `tpuserve.v1.Vocabulary`, passed on from tokenizer to device unread."""

    sha256: str
    data: bytes


@dataclass(frozen=True, slots=True)
class PlannedFormat:
    """An output format with the vocabulary that a device needs for it."""

    output_format: OutputFormat
    vocabulary: WireVocabulary


class FormatChecker:
    """Finds mistakes without a vocabulary, on a thread of its own; good ones are remembered."""

    def __init__(self) -> None:
        self._pool = grammar.executor("check-format")
        self._good: OrderedDict[bytes, None] = OrderedDict()
        self._pending = 0

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def check(self, output_format: OutputFormat) -> None:
        """Raises InvalidArgument with the reason, Overloaded when too many are being checked."""
        key = hashlib.sha256(repr(output_format).encode()).digest()
        if key in self._good:
            self._good.move_to_end(key)
            return
        if self._pending >= _MAX_PENDING:
            raise Overloaded(f"{self._pending} output formats are being checked already")
        self._pending += 1
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, _check, output_format)
        finally:
            self._pending -= 1
        self._good[key] = None
        if len(self._good) > _REMEMBERED:
            self._good.popitem(last=False)


def _check(output_format: OutputFormat) -> None:
    grammar.check_lark(grammar.lark_of(output_format), output_format.kind)
