"""Tokens drawn by the bmodel's greedy_head are those that the host draws greedily."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from device_svc import _core
from tests.support.device_client import device_session
from tests.support.service_process import ROOT, service_process
from tpuserve import model_dir, runtime_library
from tpuserve.v1 import generation_pb2

FIXTURES = ROOT / "tests" / "fixtures" / "models"
MODELS = {
    "history": ROOT / "models/demo/demo_f16.bmodel",
    "batched": FIXTURES / "batch4/demo_f16_batch4.bmodel",
    "bf16": FIXTURES / "bf16/demo_bf16.bmodel",
}
ARGMAX = FIXTURES / "argmax/demo_f16_argmax.bmodel"
WITHOUT = FIXTURES / "window/demo_f16_window.bmodel"


@pytest.fixture(scope="module")
def library() -> _core.Library:
    found = runtime_library.find("emulator")
    return _core.Library(str(found.directory), emulator=found.emulator)


def run(engine: _core.Engine) -> list[int]:
    """The best tokens of two prompts and of steps of both and of one of them."""
    rows = [engine.prefill(slot, np.arange(3, 20 + slot, dtype=np.int32), 0) for slot in (0, 1)]
    for step in range(6):
        rows.append(engine.decode([1, 0], np.array([40 + step, 900 - step], np.int32)))
        rows.append(engine.decode([1], np.array([step], np.int32)))
    best: list[int] = []
    for row in rows:
        assert row is not None
        if engine.spec.head == "argmax":
            best += row.ravel().tolist()
        else:
            best += row.reshape(-1, engine.spec.vocab_size).argmax(axis=1).tolist()
    return best


@pytest.mark.parametrize("name", MODELS)
def test_its_tokens_are_the_best_of_the_logits(name: str, library: _core.Library) -> None:
    path = str(MODELS[name])
    on_chip = _core.Engine(library, [path], slots=2, greedy=True)
    on_host = _core.Engine(library, [path], slots=2)
    assert (on_chip.spec.head, on_host.spec.head) == ("argmax", "logits")
    assert run(on_chip) == run(on_host)
    assert on_chip.launches > on_host.launches
    on_chip.close()
    on_host.close()


def test_an_argmax_head_is_what_it_is(library: _core.Library) -> None:
    _core.Engine(library, [str(ARGMAX)], greedy=True).close()


def test_a_bmodel_without_one_is_refused(library: _core.Library) -> None:
    with pytest.raises(_core.BmodelError, match=r"no net greedy_head \(logits to the best token"):
        _core.Engine(library, [str(WITHOUT)], greedy=True)


async def test_the_device_takes_greedy_requests_alone(tmp_path: Path) -> None:
    directory = FIXTURES / "disk"
    with service_process(
        "device_svc",
        *("--model", str(directory), "--runtime", "emulator", "--listen", "127.0.0.1:0"),
        "--greedy-head",
        stderr=tmp_path / "log",
    ) as process:
        address = process.wait_for("ready")["address"]
        sha256 = model_dir.bmodel_sha256(model_dir.load(directory))
        async with device_session(address, sha256) as session:
            greedy = generation_pb2.SamplingParams(temperature=0)
            await session.submit("a", [5, 6, 7], 6, sampling=greedy)
            assert (await session.result("a"))[1] == "LENGTH"
            sampled = generation_pb2.SamplingParams(temperature=1, seed=1)
            await session.submit("b", [5, 6, 7], 6, sampling=sampled)
            assert (await session.rejection("b"))[0] == "UNSUPPORTED"
