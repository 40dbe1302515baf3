"""What `inspect` reads without the runtime agrees with what the runtime itself reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from device_svc import _core
from tpuserve import bmodel, model_dir, runtime_library

ROOT = Path(__file__).resolve().parents[2]
DIRECTORIES = [
    path.parent
    for path in (ROOT / "models/demo/tpuserve.toml", *ROOT.glob("tests/fixtures/models/*/*.toml"))
]


@pytest.fixture(scope="module")
def library() -> _core.Library:
    found = runtime_library.find("emulator")
    return _core.Library(str(found.directory), emulator=found.emulator)


@pytest.mark.parametrize("path", sorted(DIRECTORIES), ids=lambda path: path.name)
def test_agrees_with_the_runtime(path: Path, library: _core.Library) -> None:
    model = model_dir.load(path)
    paths = model.bmodels
    content = bmodel.joined([bmodel.read(path) for path in paths])
    language = bmodel.describe(content)
    assert language is not None
    engine = _core.Engine(
        library,
        [str(path) for path in paths],
        chips=range(len(paths)),
        slots=1,
        embedding=str(model.embedding or ""),
    )
    try:
        spec = engine.spec
    finally:
        engine.close()
    nets = {
        net.name: (net.dynamic, net.io_alone, [_shapes(variant) for variant in net.variants])
        for net in spec.nets
    }
    assert nets == {
        net.name: (
            net.dynamic,
            net.io_alone,
            [_shapes((variant.inputs, variant.outputs)) for variant in net.variants],
        )
        for net in content.nets
    }
    assert language.layers == spec.layers
    assert language.hidden_size == spec.hidden_size
    assert language.vocab_size == spec.vocab_size
    assert language.context_length == spec.context_length
    assert language.max_prompt_length == spec.max_prompt_length
    assert language.prefill_chunk_tokens == spec.prefill_chunk
    assert (language.kv_heads, language.head_dim) == (spec.kv_heads, spec.head_dim)
    assert language.dtype == spec.dtype
    assert language.kv_bytes_per_slot == spec.kv_bytes_per_slot
    head = {"argmax-head" if spec.head == "argmax" else "logits"}
    assert set(language.features) == set(spec.features) | head


def _shapes(variant: tuple[Sequence[Any], Sequence[Any]]) -> list[list[tuple[Any, ...]]]:
    return [[(tensor.name, tensor.shape, tensor.dtype) for tensor in side] for side in variant]
