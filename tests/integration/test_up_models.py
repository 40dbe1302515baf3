"""`tpuserve up` with several models, on the emulator, and `tpuserve swap` between them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import openai
import pytest

from tests.support.supervised import ANY_PORTS, MODEL, ROOT, SCRIPT, Up, up

STATIC = ROOT / "tests" / "fixtures" / "models" / "static"
DEMO_NAME, STATIC_NAME = "tpuserve-demo", "tpuserve-demo-static"


def tpuserve(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=25,
    )


def answer(client: openai.OpenAI, model: str) -> str:
    reply = client.completions.create(model=model, prompt="A chip is", max_tokens=6, temperature=0)
    assert reply.model == model
    return reply.choices[0].text


def wait_for_models(http: str, *models: str) -> None:
    deadline_s = time.monotonic() + 20
    while ready_models(http) != sorted(models):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def ready_models(http: str) -> list[str]:
    try:
        with urllib.request.urlopen(f"{http}/ready", timeout=5) as reply:
            body = reply.read()
    except urllib.error.HTTPError as error:
        body = error.read()
    found: list[str] = json.loads(body)["models"]
    return found


def swap(server: Up, directory: Path) -> str:
    """Of the second model's device."""
    devices = [line for line in server.log.splitlines() if "tpuserve swap" in line]
    result = tpuserve("swap", str(directory), "--device", devices[1].split()[-1])
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_two_models_behind_one_gateway(tmp_path: Path) -> None:
    with up(tmp_path, str(MODEL), str(STATIC), "--swap-root", str(ROOT)) as server:
        server.wait_for(f"{DEMO_NAME}, {STATIC_NAME} are ready")
        http = server.wait_for(r"HTTP   (\S+)/v1").group(1)
        server.wait_for("stop   Ctrl-C")
        assert ready_models(http) == [DEMO_NAME, STATIC_NAME]
        assert len(server.children("tokenizer_svc")) == len(server.children("device_svc")) == 2
        with openai.OpenAI(base_url=f"{http}/v1", api_key="unused", max_retries=0) as client:
            assert sorted(m.id for m in client.models.list()) == [DEMO_NAME, STATIC_NAME]
            before = {name: answer(client, name) for name in (DEMO_NAME, STATIC_NAME)}
            with pytest.raises(openai.NotFoundError, match="is not served; served: tpuserve-demo"):
                answer(client, "other")

            # The second device changes sides and back.
            assert f"{STATIC_NAME} -> {DEMO_NAME}" in swap(server, MODEL)
            wait_for_models(http, DEMO_NAME)
            assert answer(client, DEMO_NAME) == before[DEMO_NAME]
            with pytest.raises(openai.InternalServerError) as caught:
                answer(client, STATIC_NAME)
            assert caught.value.status_code == 503
            assert "no healthy device serves model tpuserve-demo-static" in str(caught.value)
            swap(server, STATIC)
            wait_for_models(http, DEMO_NAME, STATIC_NAME)
            assert {name: answer(client, name) for name in before} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([str(MODEL), str(MODEL)], "are both called tpuserve-demo: clients choose by name"),
        (
            [str(MODEL), str(STATIC), "--devices", "0"],
            "--devices is given 1 times for 2 models: give it once for each",
        ),
        ([str(MODEL), "nowhere"], "nowhere is not a directory"),
        (
            [str(MODEL), *ANY_PORTS, "--runtime", "emulator", "--swap-root", "nowhere"],
            "nowhere is not a directory",
        ),
    ],
)
def test_what_cannot_be_served_is_named(arguments: list[str], message: str) -> None:
    result = tpuserve("up", *arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_swap_that_fails_says_why() -> None:
    result = tpuserve("swap", "nowhere", "--device", "127.0.0.1:1", "--timeout", "2")
    assert (result.returncode, result.stderr) == (
        1,
        "tpuserve: the device 127.0.0.1:1 is not reachable\n",
    )
