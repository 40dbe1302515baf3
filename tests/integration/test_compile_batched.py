"""Compiles a tiny model with batched decode nets, in the compiler's own environment."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from compiler.__main__ import main
from compiler.checkpoint import Checkpoint
from compiler.convert import Options, convert
from compiler.environment import Environment
from compiler.errors import CompileError
from device_svc import _core
from tests.golden.models import cosine
from tests.integration import test_swap
from tests.support.compiler_environment import prepared
from tests.support.random_llama import write_llama
from tpuserve import model_dir, runtime_library
from tpuserve.bmodel import kv_identity, reader, weight_blocks

# The environment is made on first use: 300 MB to download.
pytestmark = pytest.mark.timeout(900)

HIDDEN, HEADS, INNER, VOCAB = 64, 2, 128, 128


@pytest.fixture(scope="module")
def environment() -> Environment:
    return prepared()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of one layer with random weights."""
    return write_llama(
        tmp_path_factory.mktemp("checkpoint"),
        hidden=HIDDEN,
        inner=INNER,
        heads=HEADS,
        kv_heads=HEADS,
        vocab=VOCAB,
    )


@pytest.mark.usefixtures("environment")
def test_a_batched_model_directory_from_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "tiny"
    line = "--seq 64 --chunk 16 --history --batch 2 --lengths 32 --quantize f16 --remove-kernel"
    assert main([str(checkpoint), "-o", str(output), *line.split()]) == 0
    loaded = model_dir.load(output)
    assert (loaded.name, loaded.slots) == ("tiny", 2)
    assert model_dir.bmodel_sha256(loaded) == loaded.sha256
    bmodel = reader.read(loaded.bmodel)
    decode = bmodel.net("block_cache_0")
    assert decode is not None
    shapes = [(v.inputs[0].shape[0], v.inputs[3].shape[1]) for v in decode.variants]
    assert shapes == [(2, 64), (2, 32)]
    assert {len(v.inputs) for v in decode.variants} == {3 + 2 * 2}
    heads = bmodel.net("lm_head")
    assert heads is not None
    # Prefill needs the head for one row, whether or not decode does.
    assert [v.outputs[0].shape for v in heads.variants] == [(2, VOCAB), (1, VOCAB)]


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    "form", ["", " --prompt-names --dynamic --mask-input", " --dynamic --batch 2"]
)
def test_a_shared_prefix_runs_as_compiled(form: str, checkpoint: Path, tmp_path: Path) -> None:
    """Prefix and rest in two launches give what prefix and rest in other parts give."""
    output = tmp_path / "tiny"
    line = "--seq 64 --share-length 32 --unshare-length 16 --remove-kernel" + form
    assert main([str(checkpoint), "-o", str(output), *line.split()]) == 0
    found = runtime_library.find("emulator")
    library = _core.Library(str(found.directory), emulator=found.emulator)
    loaded = model_dir.load(output)
    engine = _core.Engine(library, [str(loaded.bmodel)], slots=2)
    spec = engine.spec
    assert (spec.prefill_chunk, spec.history_chunk, spec.max_prompt_length) == (32, 16, 48)
    ids = np.arange(1, 39, dtype=np.int32)
    rows = []
    for slot, borders in enumerate(((0, 30, 38), (0, 25, 30, 38))):
        for begin, end in itertools.pairwise(borders):
            row = engine.prefill(slot, ids[begin:end], begin)
        rows.append(row)
    rows += list(engine.decode([0, 1], np.array([7, 7], np.int32)))
    engine.close()
    for one, other in ((rows[0], rows[1]), (rows[2], rows[3])):
        assert one is not None
        assert other is not None
        assert cosine(one.astype(np.float32), other.astype(np.float32)) >= 0.9999


@pytest.mark.usefixtures("environment")
async def test_equal_positions_make_one_prompts_rows_good_for_two_lengths(
    checkpoint: Path, tmp_path: Path
) -> None:
    """Weights and prefill nets are equal, so that rows outlive a change bit for bit."""
    models = {seq: tmp_path / "models" / f"seq{seq}" for seq in (64, 96)}
    for seq, model in models.items():
        line = f"--seq {seq} --positions 128 --chunk 16 --history --remove-kernel"
        assert main([str(checkpoint), "-o", str(model), *line.split()]) == 0
    short, long = (reader.read(model_dir.load(model).bmodel) for model in models.values())
    assert weight_blocks(short) == weight_blocks(long)
    found = kv_identity(short), kv_identity(long)
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].same_bits(found[1])
    prompt_ids = [*range(1, 40)]
    arguments = ("--swap-root", str(tmp_path / "models"))
    with test_swap.started(models[64], tmp_path / "log", *arguments) as device:
        cold = await device.ask(models[64], prompt_ids)
        reply = await device.swap(models[96])
        assert (cold[0], reply.kept_kv_tokens) == (0, 32)
        assert await device.ask(models[96], prompt_ids) == (32, cold[1])


def test_a_family_of_its_own_has_no_shared_prefix(
    environment: Environment, checkpoint: Path, tmp_path: Path
) -> None:
    opened = Checkpoint.open(checkpoint)
    other = replace(opened, config={**opened.config, "model_type": "gpt_bigcode"})
    options = Options(64, share_tokens=32, unshare_tokens=16)
    with pytest.raises(CompileError, match="not there for gpt_bigcode"):
        convert(other, options, environment, tmp_path)


def test_the_converters_own_batch_does_not_compile(
    environment: Environment, checkpoint: Path, tmp_path: Path
) -> None:
    # The reason for the nets of compiler/batched: positions and rotary tables of the converter's
    # `-b N` do not fit each other, and behind that its Insert writes no KV on this chip.
    staged = tmp_path / "staged"
    Checkpoint.open(checkpoint).stage(staged, "f16")
    command = ["llm_convert.py", "-m", str(staged), "-o", str(tmp_path / "out"), "-c", "bm1684x"]
    command += ["-s", "64", "-q", "f16", "-b", "2", "--do_sample"]
    with pytest.raises(CompileError, match=r"llm_convert.py failed"):
        environment.run(command, tmp_path / "log", tmp_path)
    assert "shape-infer failed" in (tmp_path / "log").read_text()


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("batch", [1, 2])
def test_an_embedding_on_disk_is_the_checkpoints(
    batch: int, checkpoint: Path, tmp_path: Path
) -> None:
    line = f"--seq 64 --max-input 32 --batch {batch} --embedding-disk --remove-kernel"
    assert main([str(checkpoint), "-o", str(tmp_path), *line.split()]) == 0
    table = np.fromfile(tmp_path / "embedding.bin", np.float16).reshape(VOCAB, HIDDEN)
    stored = load_file(checkpoint / "model.safetensors")["model.embed_tokens.weight"]
    np.testing.assert_array_equal(table, stored)
    nets = {net.name for net in reader.read(model_dir.load(tmp_path).bmodel).nets}
    assert nets >= {"block_0", "block_cache_0", "lm_head"}
    assert not nets & {"embedding", "embedding_cache"}
