from __future__ import annotations

from pathlib import Path

import pytest

from compiler import chips
from compiler.chips import NetFile
from compiler.convert import Options
from compiler.errors import CompileError
from tpuserve import bmodel

CHIPS2 = Path(__file__).resolve().parents[2] / "fixtures" / "models" / "chips2"


def nets(layers: list[int], *, embedding: int = 0, head: int = 0) -> list[NetFile]:
    """A net file for each net; sizes in bytes. The nets of a layer share its weights."""
    found = [NetFile(Path("embedding.bmodel"), {"e": embedding})]
    found.append(NetFile(Path("embedding_cache.bmodel"), {"e": embedding}))
    for kind in ("block", "block_cache", "block_kv"):
        found += [NetFile(Path(f"{kind}_{i}.bmodel"), {f"{i}": n}) for i, n in enumerate(layers)]
    # Shape variants are files of their own.
    found += [
        NetFile(Path(f"block_cache_{i}_64.bmodel"), {f"{i}": n}) for i, n in enumerate(layers)
    ]
    return [
        *found,
        *(NetFile(Path(f"{n}.bmodel"), {n: head}) for n in ("lm_head", "greedy_head_2")),
    ]


def layers_of(groups: list[list[Path]]) -> list[list[int]]:
    """The layers of each chip; all nets of a layer are together."""
    found = []
    for group in groups:
        of_nets = [chips.layer_of(path.stem) for path in group]
        layers = sorted({layer for layer in of_nets if layer is not None})
        assert all(of_nets.count(layer) == 4 for layer in layers)
        found.append(layers)
    return found


def test_equal_layers_are_dealt_equally() -> None:
    assert layers_of(chips.group(nets([10] * 8), 4)) == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_embedding_and_head_count() -> None:
    groups = chips.group(nets([10] * 6, embedding=20, head=10), 3)
    assert layers_of(groups) == [[0], [1, 2, 3], [4, 5]]
    assert {"embedding", "embedding_cache"} <= {path.stem for path in groups[0]}
    assert {"lm_head", "greedy_head_2"} <= {path.stem for path in groups[-1]}


def test_the_variants_of_a_head_follow_it() -> None:
    variants = [NetFile(Path(f"{net}_1.bmodel"), {}) for net in ("lm_head", "greedy_head")]
    groups = chips.group([*nets([10] * 4), *variants], 2)
    assert {"lm_head_1", "greedy_head_1"} <= {path.stem for path in groups[-1]}


def test_uneven_layers_are_balanced_by_weight() -> None:
    assert layers_of(chips.group(nets([30, 10, 10, 10]), 2)) == [[0], [1, 2, 3]]
    assert layers_of(chips.group(nets([1, 1, 50]), 3)) == [[0], [1], [2]]


def test_one_chip_gets_all_nets_in_their_order() -> None:
    files = nets([1, 1])
    assert chips.group(files, 1) == [[net.path for net in files]]


def test_more_chips_than_layers_are_refused() -> None:
    with pytest.raises(CompileError, match="num-device is 3: the model has only 2 layers"):
        chips.group(nets([1, 1]), 3)
    with pytest.raises(CompileError, match="num-device is 9, must be 1 to 8"):
        Options(seq_tokens=64, chips=9).check()


def test_the_parts_of_a_model_need_less_memory_each() -> None:
    whole = bmodel.read(CHIPS2.parents[3] / "models" / "demo" / "demo_f16.bmodel")
    parts = [bmodel.read(path) for path in sorted(CHIPS2.glob("*.bmodel"))]
    assert bmodel.describe(bmodel.joined(parts)) == bmodel.describe(whole)
    total = bmodel.memory_budget(whole)
    budgets = [bmodel.memory_budget(part) for part in parts]
    # Tied weights: the embedding's table is the head's matrix, and now both chips have it.
    embedding = whole.net("embedding")
    assert embedding is not None
    table = embedding.variants[0].weights
    assert table is not None
    assert sum(budget.weights_bytes for budget in budgets) == total.weights_bytes + table.size_bytes
    assert max(budget.weights_bytes for budget in budgets) < 0.75 * total.weights_bytes
    assert sum(budget.context_io_bytes for budget in budgets) == total.context_io_bytes
    assert max(budget.total_bytes(4) for budget in budgets) < 0.75 * total.total_bytes(4)
