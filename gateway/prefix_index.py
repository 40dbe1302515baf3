"""Which prompts a device holds, as far as one gateway can know: what it has sent there.

A device keeps one sequence per slot, also after its request has ended, until the slot is needed for
another (docs/adr/0006-exact-prefix-reuse.md). This is the same order of events without the rows:
other gateways' requests are unknown here, and a device that forgets earlier is found out by the
cached tokens that it reports.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

BLOCK_TOKENS: Final = 16


class BlockChain:
    """A prompt as a chain of hashed blocks; equal hashes at one place mean equal prompts up to it.

    Ids that do not fill a block are left out. Hashed on first use: 0.3 µs a block. A collision
    would cost a detour, never a wrong token.
    """

    __slots__ = ("_hashes", "_ids", "_images")

    def __init__(self, ids: Sequence[int], *, images: Sequence[bytes] = ()) -> None:
        """With other images the same ids are another prompt."""
        self._ids = tuple(ids)
        self._images = tuple(images)
        self._hashes: tuple[int, ...] | None = None

    @property
    def tokens(self) -> int:
        return len(self._ids)

    @property
    def hashes(self) -> tuple[int, ...]:
        if self._hashes is None:
            hashes, last, ids = [], hash(self._images), self._ids
            for end in range(BLOCK_TOKENS, len(ids) + 1, BLOCK_TOKENS):
                last = hash((last, ids[end - BLOCK_TOKENS : end]))
                hashes.append(last)
            self._hashes = tuple(hashes)
        return self._hashes

    def common_blocks(self, other: BlockChain) -> int:
        """How many leading blocks are equal; by bisection, for equality ends once and for all."""
        mine, others = self.hashes, other.hashes
        low, high = 0, min(len(mine), len(others))
        if not high or mine[0] != others[0]:
            return 0
        while low < high:
            middle = (low + high + 1) // 2
            if mine[middle - 1] == others[middle - 1]:
                low = middle
            else:
                high = middle - 1
        return low


class ResidentPrefixes:
    """Of one device: the prompts of running requests, and of ended ones while slots last.

    `chunk_tokens` is the unit of reuse: less than a chunk in common is worth nothing.
    """

    def __init__(self, slots: int, chunk_tokens: int) -> None:
        self._slots = slots
        self._chunk_tokens = max(1, chunk_tokens)
        self._running: dict[str, BlockChain] = {}
        self._warm: OrderedDict[str, BlockChain] = OrderedDict()

    def matched_tokens(self, chain: BlockChain) -> int:
        """Tokens of the prompt that need not be computed there; its last one always is."""
        blocks = max(
            (
                chain.common_blocks(held)
                for chains in (self._running, self._warm)
                for held in chains.values()
            ),
            default=0,
        )
        tokens = min(blocks * BLOCK_TOKENS, chain.tokens - 1)
        return max(0, tokens // self._chunk_tokens * self._chunk_tokens)

    def hold(self, key: str, chain: BlockChain) -> None:
        """A request with this prompt goes there. A prompt that continues a warm one replaces it."""
        for name, held in list(self._warm.items()):
            common = chain.common_blocks(held)
            if common and common == len(held.hashes):
                del self._warm[name]
            elif common:
                self._warm.move_to_end(name)
        self._running[key] = chain
        self._forget_oldest()

    def release(self, key: str) -> None:
        """It has ended there, in whatever way; unknown keys are ignored."""
        chain = self._running.pop(key, None)
        if chain is not None and chain.hashes:
            self._warm[key] = chain
            self._forget_oldest()

    def reported(self, chain: BlockChain, cached_tokens: int) -> None:
        """So much of the prompt was resident: warm ones that promised more are gone."""
        for name, held in list(self._warm.items()):
            common_tokens = chain.common_blocks(held) * BLOCK_TOKENS
            if common_tokens >= cached_tokens + self._chunk_tokens + BLOCK_TOKENS:
                del self._warm[name]

    def _forget_oldest(self) -> None:
        while self._warm and len(self._running) + len(self._warm) > self._slots:
            self._warm.popitem(last=False)
