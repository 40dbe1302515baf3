"""2,000 requests that join, leave and share prefixes at random: every token is that of the rule."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.integration.test_simchip_device import VOCAB_SIZE, device
from tests.support.device_client import SessionClient, device_session
from tests.support.simchip import PROFILES, completion

REQUESTS = 2000
IN_FLIGHT = 48


class Load:
    """Keeps so many requests under way; some are cancelled, some end at a stop id."""

    def __init__(self, session: SessionClient, seed: int) -> None:
        self._session = session
        self._draw = random.Random(seed)
        self._prefixes = [self._ids(100) for _ in range(4)]
        self._expected: dict[str, list[int]] = {}
        self._live: list[str] = []
        self._cancelled: set[str] = set()
        self._submitted = 0
        self.tokens = 0
        self.finishes: dict[str, int] = {}

    def _ids(self, count: int) -> list[int]:
        return [self._draw.randrange(VOCAB_SIZE) for _ in range(count)]

    async def run(self) -> None:
        while self._submitted < REQUESTS or self._live:
            while self._submitted < REQUESTS and len(self._live) < IN_FLIGHT:
                await self._submit()
            if self._draw.random() < 0.01:
                key = self._draw.choice(self._live)
                self._cancelled.add(key)
                await self._session.cancel(key)
            assert await self._session.read()
            for key in [key for key in self._live if self._session.finish(key)]:
                self._live.remove(key)
                self._check(key)

    async def _submit(self) -> None:
        key = f"r{self._submitted}"
        self._submitted += 1
        shared = self._draw.choice([[], self._draw.choice(self._prefixes)])
        ids = shared[: self._draw.randrange(101)] + self._ids(self._draw.randrange(1, 40))
        count = self._draw.randrange(1, 40)
        expected = completion(ids, count, VOCAB_SIZE)
        stop = [self._draw.choice(expected)] if self._draw.random() < 0.2 else []
        if stop:
            expected = expected[: expected.index(stop[0]) + 1]
        self._expected[key] = expected
        self._live.append(key)
        await self._session.submit(key, ids, count, stop_ids=stop)

    def _check(self, key: str) -> None:
        ids, finish = self._session.ids(key), self._session.finish(key)
        expected = self._expected[key]
        if finish == "CANCELLED":
            assert key in self._cancelled
            assert ids == expected[: len(ids)]
        else:
            assert finish in ("LENGTH", "STOP")
            assert ids == expected
        self.tokens += len(ids)
        self.finishes[finish] = self.finishes.get(finish, 0) + 1


@pytest.mark.parametrize("profile", ["tiny", "tiny-b16"])
async def test_nothing_is_lost_mixed_up_or_left_behind(tmp_path: Path, profile: str) -> None:
    with device(tmp_path, profile=PROFILES / f"{profile}.toml") as served:
        async with device_session(served.address, served.sha256) as session:
            load = Load(session, seed=7)
            started = time.monotonic()
            await load.run()
            elapsed_s = time.monotonic() - started
            assert sum(load.finishes.values()) == REQUESTS
            assert set(load.finishes) == {"LENGTH", "STOP", "CANCELLED"}
            idle = await session.until_idle()
            assert (idle.running, idle.waiting, idle.free_slots) == (0, 0, 16)
        print(f"{profile}: {load.tokens / elapsed_s:.0f} tokens/s, {elapsed_s:.1f} s")
        assert served.stop() == 0
        assert served.said() == []
