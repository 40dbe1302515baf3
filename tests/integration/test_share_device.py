"""A bmodel for a shared prefix behind the device service, on the emulator."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.test_prefix_reuse import ask, started
from tests.support.device_client import device_session
from tests.support.service_process import ROOT

SHARE = ROOT / "tests" / "fixtures" / "models" / "share"
# As many tokens as the prefix nets take, and at most so many behind.
PREFIX, REST = 64, 32
SHARED = [3 + (index * index * 7 + index) % 1000 for index in range(PREFIX)]


@pytest.mark.parametrize("mode", ["exact", "fast"])
async def test_questions_behind_one_prefix(mode: str, tmp_path: Path) -> None:
    """The prefix is computed once; answers are those of cold runs, to the bit where promised."""
    (tmp_path / "cold").mkdir()
    with started(SHARE, mode, tmp_path) as warm, started(SHARE, "off", tmp_path / "cold") as cold:
        first, second = [*SHARED, *range(100, 120)], [*SHARED, *range(200, 200 + REST)]
        assert (await ask(warm, first)).cached_tokens == 0
        found, alone = await ask(warm, second), await ask(cold, second)
        assert (found.cached_tokens, alone.cached_tokens) == (PREFIX, 0)
        assert (found.ids, found.logprobs) == (alone.ids, alone.logprobs)
        # A shorter common part ends within the prefix launch: only `fast` goes on behind it.
        third = [*SHARED[:40], *range(300, 320)]
        found, alone = await ask(warm, third), await ask(cold, third)
        assert found.cached_tokens == (40 if mode == "fast" else 0)
        assert found.ids[0] == alone.ids[0]
        async with device_session(warm.address, warm.sha256) as session:
            await session.submit("long", [*range(PREFIX + REST + 1)])
            assert await session.rejection("long") == (
                "INVALID",
                f"the prompt has {PREFIX + REST + 1} tokens, the model takes {PREFIX + REST}",
            )
