"""A bmodel with the nets of ChatGLM's of 2023, behind the device service."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.test_prefix_reuse import ask, started
from tests.support.device_client import device_session
from tests.support.service_process import ROOT

FIXTURES = ROOT / "tests" / "fixtures" / "models"
PROMPT = [3 + (index * index * 7 + index) % 1000 for index in range(40)]


async def test_answers_are_those_of_todays_nets(tmp_path: Path) -> None:
    (tmp_path / "today").mkdir()
    with (
        started(FIXTURES / "window", "off", tmp_path) as older,
        started(FIXTURES / "static", "off", tmp_path / "today") as today,
    ):
        for length in (7, 40):
            found = await ask(older, PROMPT[:length], 20)
            expected = await ask(today, PROMPT[:length], 20)
            assert found.ids == expected.ids
            for (_, logprob, _), (_, wanted, _) in zip(
                found.logprobs, expected.logprobs, strict=True
            ):
                assert logprob == pytest.approx(wanted, abs=0.01)
        async with device_session(older.address, older.sha256) as session:
            await session.submit("long", [*range(64)])
            assert await session.rejection("long") == (
                "INVALID",
                "the prompt has 64 tokens, the model takes 63",
            )
