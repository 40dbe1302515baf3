"""`tpuserve dump` and `compare` as a user runs them, against the float reference."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from device_svc import _core
from tests.golden.models import CONFIG, WEIGHTS, cosine
from tests.golden.reference import KvState, Reference
from tests.support.device_client import device_session
from tests.support.service_process import ROOT, service_process
from tests.support.supervised import MODEL, up
from tpuserve import model_dir, runtime_library
from tpuserve.cli.__main__ import main

FIXTURES = ROOT / "tests" / "fixtures" / "models"
# Two chunks of prefill, so that a later one is seen too.
IDS = [(7 * index * index + index) % 1000 + 3 for index in range(90)]
STEPS = 5


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference.load(CONFIG, WEIGHTS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Addresses of a gateway and a device that allows dumps."""
    with up(tmp_path_factory.mktemp("up"), "--model", str(MODEL), "--allow-dumps") as running:
        running.wait_for(r"stop   Ctrl-C")
        gateway = running.wait_for(r"gRPC   (\S+)").group(1)
        yield gateway, running.wait_for(r"--device (\S+)").group(1)


def computed(reference: Reference, ids: list[int]) -> dict[str, NDArray[Any]]:
    """What a dump of all layers should hold."""
    state, hidden = KvState(), list[NDArray[np.float32]]()
    reference.forward(ids, state, hidden=hidden)
    tensors: dict[str, NDArray[Any]] = {"ids": np.array(ids, np.int32)}
    for layer in range(reference.layers):
        tensors[f"k_{layer}"] = state.keys[layer]
        tensors[f"v_{layer}"] = state.values[layer]
        tensors[f"hidden_{layer}"] = hidden[layer]
    return tensors


def test_a_text_s_dump_agrees_with_the_reference(
    server: tuple[str, str], reference: Reference, tmp_path: Path
) -> None:
    gateway, device = server
    out, expected = tmp_path / "dump.npz", tmp_path / "expected.npz"
    text = "What is gRPC? " * 20
    where = ["--device", device, "--address", gateway]
    assert main(["dump", text, "-o", str(out), *where, "--steps", str(STEPS)]) == 0
    with np.load(out) as dump:
        ids = dump["ids"].tolist()
        meta = json.loads(str(dump["meta"]))
        assert dump["hidden_1"].dtype == np.float16
        assert dump["k_2"].shape == (len(ids), reference.kv_heads, reference.head_dim)
    prompt_tokens = len(ids) - STEPS
    assert prompt_tokens == meta["prompt_tokens"] > 64, "more than a chunk"
    assert meta["bmodel_sha256"] == model_dir.bmodel_sha256(model_dir.load(MODEL))
    assert ids[prompt_tokens:] == reference.greedy(ids[:prompt_tokens], STEPS, frozenset())
    np.savez(expected, allow_pickle=False, **computed(reference, ids))
    assert main(["compare", str(out), str(expected), "--min-cos", "0.9999"]) == 0


def test_chosen_layers_and_kinds_only(server: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "dump.npz"
    ids = ",".join(map(str, IDS[:5]))
    arguments = ["dump", "--ids", ids, "-o", str(out), "--device", server[1], "--layers", "2,0"]
    assert main([*arguments, "--only", "hidden"]) == 0
    with np.load(out) as dump:
        assert dump.files == ["meta", "ids", "hidden_0", "hidden_2"]
    assert main([*arguments, "--only", "kv", "--steps", "2"]) == 0
    with np.load(out) as dump:
        assert dump.files == ["meta", "ids", "k_0", "v_0", "k_2", "v_2"]
        assert len(dump["v_2"]) == 7


def test_bfloat16_comes_as_float32(tmp_path: Path, reference: Reference) -> None:
    arguments = ("--model", str(FIXTURES / "bf16"), "--runtime", "emulator", "--allow-dumps")
    listen = ("--listen", "127.0.0.1:0", "--slots", "1")
    with service_process("device_svc", *arguments, *listen, stderr=tmp_path / "log") as process:
        address = process.wait_for("ready")["address"]
        ids = ",".join(map(str, IDS[:20]))
        out = tmp_path / "dump.npz"
        assert main(["dump", "--ids", ids, "-o", str(out), "--device", address]) == 0
    with np.load(out) as dump:
        meta = json.loads(str(dump["meta"]))
        found = {name: dump[name] for name in dump.files if name != "meta"}
    assert meta["dtypes"]["hidden_0"] == "bfloat16"
    for name, expected in computed(reference, IDS[:20]).items():
        assert found[name].dtype == (np.int32 if name == "ids" else np.float32)
        assert cosine(found[name].ravel(), expected.ravel()) > 0.999
    # Only the upper 16 bits are used.
    assert not np.any(found["k_1"].view(np.uint32) & 0xFFFF)


async def test_others_go_on_beside_a_dump(server: tuple[str, str], tmp_path: Path) -> None:
    """A dump takes a slot among them, reuses no rows, and leaves no slot behind."""
    device = server[1]
    sha256 = model_dir.bmodel_sha256(model_dir.load(MODEL))
    arguments = ["dump", "--ids", ",".join(map(str, IDS)), "--device", device, "--steps", "3"]
    alone, beside = tmp_path / "alone.npz", tmp_path / "beside.npz"
    assert await asyncio.to_thread(main, [*arguments, "-o", str(alone)]) == 0
    async with device_session(device, sha256) as session:
        # The same prompt: its rows are resident for everyone but the dump.
        await session.submit("solo", IDS, 30)
        expected, _ = await session.result("solo")
        for name in ("a", "b", "c"):
            await session.submit(name, IDS, 30)
        while not session.ids("a"):
            await session.read()
        dumping = asyncio.create_task(asyncio.to_thread(main, [*arguments, "-o", str(beside)]))
        for name in ("a", "b", "c"):
            assert (await session.result(name))[0] == expected
        assert await dumping == 0
        assert (await session.load()).free_slots == 4
    assert main(["compare", str(alone), str(beside), "--min-cos", "1"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ids", "1,2", "--layers", "3"], "layers has 3, the model has 0 to 2"),
        (["--ids", "1,1024"], r"prompt_ids[1] is 1024, the vocabulary has 1024 ids"),
        (["--ids", "1", "--steps", "511"], "1 prompt_ids and decode_tokens 511 fill the context"),
        (["--ids", ",".join(["1"] * 512)], "the prompt has 512 tokens, the model takes 511"),
        (["--ids", "1", "--steps", "-1"], "--steps is -1, must be at least 0"),
        ([], "name either a prompt or --ids"),
    ],
)
def test_names_what_cannot_be_dumped(
    arguments: list[str],
    message: str,
    server: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "dump.npz"
    assert main(["dump", "-o", str(out), "--device", server[1], *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_is_off_unless_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--model", str(FIXTURES / "static"), "--runtime", "emulator")
    listen = ("--listen", "127.0.0.1:0", "--slots", "1")
    with service_process("device_svc", *arguments, *listen, stderr=tmp_path / "log") as process:
        address = process.wait_for("ready")["address"]
        out = tmp_path / "dump.npz"
        assert main(["dump", "--ids", "1", "-o", str(out), "--device", address]) == 1
    assert "dumps are off: start the device service with --allow-dumps" in capsys.readouterr().err


def test_a_slot_of_a_batch_shows_its_own_states(reference: Reference) -> None:
    library = runtime_library.find("emulator")
    core = _core.Library(str(library.directory), emulator=True)
    bmodel = FIXTURES / "batch4" / "demo_f16_batch4.bmodel"
    engine = _core.Engine(core, [str(bmodel)], slots=4)
    try:
        engine.prefill(0, np.array(IDS[:9], np.int32), 0)
        engine.prefill(2, np.array(IDS[20:33], np.int32), 0)
        engine.watch(2, [0, 1, 2])
        engine.decode([0, 2], np.array([5, 6], np.int32))
        found = engine.watched(2).view(np.float16)
        with pytest.raises(ValueError, match="slot 0 is not watched"):
            engine.watched(0)
        with pytest.raises(ValueError, match="layer 3: expected ascending numbers from 0 to 2"):
            engine.watch(1, [3])
    finally:
        engine.close()
    expected = computed(reference, [*IDS[20:33], 6])
    for layer in range(reference.layers):
        row = found[layer, 0].astype(np.float32)
        assert cosine(row, expected[f"hidden_{layer}"][-1]) > 0.9999
