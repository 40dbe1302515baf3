"""The benchmark runs through; what it measures is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import client, concurrency, masks, prefix_ttft, processes
from bench.processes import Stack

ROOT = Path(__file__).resolve().parents[2]


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=28)


def test_part_ttft_writes_its_numbers(tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    done = _bench("ttft", "--rounds", "1", "--json", str(file))
    assert done.returncode == 0, done.stderr
    (section,) = json.loads(file.read_text(encoding="utf-8"))["sections"]
    rows: dict[str, Any] = {row["name"]: row for row in section["rows"]}
    assert rows["requests"]["value"] == 100
    assert 0 < rows["device alone, p50"]["value"] < rows["TTFT through gateway, p50"]["value"]
    assert rows["added, p50"]["target"] == "≤ 3"
    assert section["title"] in done.stdout


def test_part_masks_needs_no_device(tmp_path: Path) -> None:
    section = masks.run(ROOT / "models" / "demo" / "config")
    rows = {row.name: row.value for row in section.rows}
    assert rows["tokens of the vocabulary"] == 1024
    assert rows["any JSON object: mask, p50"] > 0
    done = _bench("masks", "--tokenizer", str(tmp_path))
    assert done.returncode == 1
    assert "holds no tokenizer" in done.stderr


def test_a_service_that_cannot_start_is_named() -> None:
    done = _bench("ttft", "--model", "no/such/model")
    assert done.returncode == 1
    assert "tokenizer_svc did not become ready" in done.stderr
    assert "no/such/model is not a directory" in done.stderr


def test_an_unknown_part_is_refused() -> None:
    done = _bench("tftt")
    assert done.returncode == 1
    assert "no part tftt" in done.stderr


async def test_many_clients_get_the_answers_of_one(stack: Stack) -> None:
    section = await concurrency.run(stack, clients=8, tokens=6)
    rows = {row.name: row.value for row in section.rows}
    assert rows["answers equal to those alone"] == 8


async def test_a_shared_prefix_is_reused_in_whole_chunks(stack: Stack) -> None:
    section = await prefix_ttft.run(stack, rounds=1)
    rows = {row.name: row.value for row in section.rows}
    assert rows["shared"] == rows["reused by hits, least"] == 448
    assert rows["reused by cold prompts, most"] == 0
    assert 0 < rows["TTFT hit"] < rows["TTFT cold"]


async def test_paused_services_go_on(stack: Stack) -> None:
    with stack.paused():
        assert {each.process.status() for each in stack.services} == {"stopped"}
    async with client.gateway(stack.address) as gateway:
        answered = await gateway.chat(client.chat_request("Hello!", 3))
    assert answered.tokens == 3


def test_no_process_is_left() -> None:
    model = ROOT / "models" / "demo"
    with processes.stack(model, device_module="bench.instant_device") as running:
        started = [each.process for each in running.services]
        assert all(process.is_running() for process in started)
    assert not any(process.is_running() for process in started)
