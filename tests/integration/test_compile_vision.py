"""The small vision checkpoint through the compiler with 4-bit weights, a context for each slot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compiler.__main__ import main
from device_svc import _core
from models.mllama import checkpoint
from tests.golden.models import cosine
from tests.support import float_models, mllama_reference
from tests.support.compiler_environment import prepared
from tpuserve import model_dir, runtime_library
from tpuserve.bmodel import reader

# The environment is made on first use: 300 MB to download.
pytestmark = pytest.mark.timeout(900)

CHUNK, PROMPT, STEPS = 32, 45, 3


def test_four_bit_weights_cost_their_rounding_and_no_more(tmp_path: Path) -> None:
    prepared()
    tiny = checkpoint.load()
    source = tiny.write(tmp_path / "checkpoint")
    line = f"--seq 96 --chunk {CHUNK} --history --quantize w4f16 --remove-kernel"
    assert main([str(source), "-o", str(tmp_path / "model"), *line.split()]) == 0
    bmodel = model_dir.load(tmp_path / "model").bmodel
    # Prefill and decode share the weights of a layer, which otherwise would not fit the chip.
    for layer in range(5):
        nets = [reader.read(bmodel).net(f"{kind}_{layer}") for kind in ("block", "block_cache")]
        assert len({v.weights for net in nets if net for v in net.variants}) == 1
    layers = {name: w for name, w in tiny.weights.items() if ".model.layers." in name}
    rounded = {**tiny.weights, **float_models.four_bits(layers)}
    ids = np.random.default_rng(1).integers(0, 512, PROMPT + STEPS).astype(np.int32)
    ids[7] = tiny.config["image_token_index"]
    pixels = np.random.default_rng(2).normal(size=(3, 3, 70, 70)).astype(np.float32)
    picture = mllama_reference.Picture(pixels, 3, 7)
    found = runtime_library.find("emulator")
    library = _core.Library(str(found.directory), emulator=True)
    engine = _core.Engine(library, [str(bmodel)], slots=2)
    try:
        assert engine.spec.vision is not None
        assert engine.spec.vision.max_images == 1
        # The first slot sees the image, the second reads the same tokens without it.
        engine.encode_image(0, 0, pixels, 3)
        engine.show_images(0, [7])
        for slot in (0, 1):
            engine.prefill(slot, ids[:CHUNK], 0, last=False)
            engine.prefill(slot, ids[CHUNK:PROMPT], CHUNK)
        rows = [engine.decode([0, 1], ids[[i, i]]) for i in range(PROMPT, PROMPT + STEPS)]
    finally:
        engine.close()
    for slot, pictures in enumerate(([picture], [])):
        wanted = mllama_reference.logits(tiny.config, rounded, ids, pictures)[PROMPT:]
        exact = mllama_reference.logits(tiny.config, tiny.weights, ids, pictures)[PROMPT:]
        got = np.array([row[slot] for row in rows], np.float64)
        assert min(cosine(*pair) for pair in zip(got, wanted, strict=True)) >= 0.999
        assert min(cosine(*pair) for pair in zip(got, exact, strict=True)) < 0.999
