"""Every rule of the ABI that the simulated chip checks is broken; what is right breaks none."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.support.simchip import BATCHED, ONE_ROW, write_bmodel
from tests.support.simchip_abi import (
    BAD_PARAMETER,
    FLOAT32,
    NO_MEMORY,
    SUCCESS,
    Handle,
    Memory,
    Runtime,
    Simchip,
)
from tests.unit.simchip.conftest import NewChip


@dataclass(frozen=True)
class Loaded:
    chip: Simchip
    handle: Handle
    runtime: Runtime

    def embed(self) -> bool:
        """Queues a launch of embedding_cache in its own memory."""
        variant = self.runtime.variants("embedding_cache")[0]
        return self.runtime.launch("embedding_cache", variant.inputs, variant.outputs)

    def broke(self, rule: str, count: int = 1) -> None:
        assert (self.chip.last_rule(), self.chip.broken_rules) == (rule, count)


@pytest.fixture
def loaded(new_chip: NewChip, tmp_path: Path) -> Loaded:
    chip = new_chip("[chip]\nmemory_bytes = 4_000_000")
    handle = chip.open()
    return Loaded(chip, handle, handle.runtime(write_bmodel(tmp_path / "m.bmodel", ONE_ROW)))


def in_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)


def ids_of(loaded: Loaded) -> int:
    address = loaded.runtime.variants("embedding_cache")[0].inputs[0].address
    assert loaded.handle.upload(address, np.array([7], np.int32)) == SUCCESS
    return address


def test_what_is_right_breaks_no_rule_and_leaves_nothing(loaded: Loaded) -> None:
    ids_of(loaded)
    memory = loaded.handle.allocate(100)
    assert loaded.handle.upload(memory.address, np.arange(25, dtype=np.int32)) == SUCCESS
    other = loaded.handle.allocate(100)
    assert loaded.handle.copy(other.address, memory.address, 100) == SUCCESS
    status, data = loaded.handle.download(other.address, 25, "int32")
    assert (status, data.tolist()) == (SUCCESS, list(range(25)))
    assert loaded.embed()
    assert loaded.handle.sync() == SUCCESS
    out = loaded.runtime.variants("embedding_cache")[0].outputs[0]
    assert loaded.handle.download(out.address, out.size, "uint8")[0] == SUCCESS
    loaded.handle.free_memory(memory)
    loaded.handle.free_memory(other)
    loaded.runtime.destroy()
    loaded.handle.free()
    assert loaded.chip.broken_rules == 0
    for kind in ("allocations", "allocated_bytes", "used_bytes", "runtimes", "open_handles"):
        assert loaded.chip.counter(kind) == 0, kind


def test_unknown_handle(loaded: Loaded) -> None:
    other = loaded.chip.open()
    other.free()
    assert other.malloc(100)[0] == BAD_PARAMETER
    loaded.broke("unknown-handle")
    other.free()
    loaded.broke("unknown-handle", 2)


def test_unknown_runtime(loaded: Loaded, tmp_path: Path) -> None:
    second = loaded.handle.runtime()
    second.destroy()
    second.destroy()
    loaded.broke("unknown-runtime")
    assert not second.load(tmp_path / "m.bmodel")
    loaded.broke("unknown-runtime", 2)


def test_double_free(loaded: Loaded) -> None:
    memory = loaded.handle.allocate(100)
    loaded.handle.free_memory(memory)
    loaded.handle.free_memory(memory)
    loaded.broke("double-free")


def test_freeing_the_middle_of_an_allocation_or_memory_of_a_net(loaded: Loaded) -> None:
    memory = loaded.handle.allocate(100)
    memory.address += 4
    loaded.handle.free_memory(memory)
    loaded.broke("bad-free")
    memory.address = ids_of(loaded)
    loaded.handle.free_memory(memory)
    loaded.broke("bad-free", 2)


@pytest.mark.parametrize("elements", [26, 1000])
def test_host_copies_past_the_end(loaded: Loaded, elements: int) -> None:
    memory = loaded.handle.allocate(100)
    assert loaded.handle.upload(memory.address, np.zeros(elements, np.int32)) == BAD_PARAMETER
    loaded.broke("bad-address")
    assert loaded.handle.download(memory.address, elements, "int32")[0] == BAD_PARAMETER
    loaded.broke("bad-address", 2)


def test_chip_copies_and_fills_past_the_end(loaded: Loaded) -> None:
    memory, other = loaded.handle.allocate(100), loaded.handle.allocate(200)
    assert loaded.handle.copy(memory.address, other.address, 101) == BAD_PARAMETER
    assert loaded.handle.copy(other.address, memory.address, 101) == BAD_PARAMETER
    assert loaded.handle.fill(memory.address, 101) == BAD_PARAMETER
    loaded.broke("bad-address", 3)
    assert loaded.handle.copy(other.address + 50, other.address, 100) == BAD_PARAMETER
    loaded.broke("overlap", 4)


def test_memory_that_was_freed_or_never_there(loaded: Loaded) -> None:
    memory = loaded.handle.allocate(100)
    loaded.handle.free_memory(memory)
    assert loaded.handle.download(memory.address, 1, "uint8")[0] == BAD_PARAMETER
    assert loaded.handle.upload(12345, np.zeros(1, np.int32)) == BAD_PARAMETER
    loaded.broke("bad-address", 2)


def test_fresh_memory_is_garbage(loaded: Loaded) -> None:
    memory = loaded.handle.allocate(64)
    assert np.isnan(loaded.handle.download(memory.address, 16, "float32")[1]).all()
    loaded.handle.fill(memory.address, 64)
    assert loaded.handle.download(memory.address, 16, "float32")[1].tolist() == [0.0] * 16


def test_reading_without_waiting(loaded: Loaded) -> None:
    ids_of(loaded)
    assert loaded.embed()
    out = loaded.runtime.variants("embedding_cache")[0].outputs[0]
    assert loaded.handle.download(out.address, 16, "uint8")[0] == BAD_PARAMETER
    loaded.broke("read-without-sync")
    loaded.handle.sync()
    assert loaded.handle.download(out.address, 16, "uint8")[0] == SUCCESS


def test_overwriting_the_input_of_a_launch_without_waiting(loaded: Loaded) -> None:
    address = ids_of(loaded)
    assert loaded.embed()
    assert loaded.handle.upload(address, np.array([8], np.int32)) == BAD_PARAMETER
    loaded.broke("copy-without-sync")
    loaded.handle.sync()
    assert loaded.handle.upload(address, np.array([8], np.int32)) == SUCCESS


def test_waiting_is_of_the_thread_that_launched(loaded: Loaded) -> None:
    ids_of(loaded)
    assert loaded.embed()
    statuses: list[int] = []

    def wait_and_read() -> None:
        out = loaded.runtime.variants("embedding_cache")[0].outputs[0]
        statuses.append(loaded.handle.sync())
        statuses.append(loaded.handle.download(out.address, 16, "uint8")[0])

    in_thread(wait_and_read)
    assert statuses == [SUCCESS, BAD_PARAMETER]
    loaded.broke("read-without-sync")


def test_a_second_thread_while_the_first_has_not_waited(loaded: Loaded) -> None:
    ids_of(loaded)
    assert loaded.embed()
    results: list[bool] = []
    in_thread(lambda: results.append(loaded.embed()))
    assert results == [False]
    loaded.broke("two-threads")
    loaded.handle.sync()
    in_thread(lambda: results.append(loaded.embed()))
    assert results == [False, True]


def test_two_threads_inside_of_a_runtime(loaded: Loaded, tmp_path: Path) -> None:
    """The first is held inside by a file that does not end."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    second = loaded.handle.runtime()
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(second.load(pipe)))
    thread.start()
    with pipe.open("wb"):
        # Both ends are open: the thread is inside.
        assert loaded.runtime.variants("lm_head")
        assert loaded.chip.broken_rules == 0
        loaded.chip.lib.bmrt_get_network_number(second.number)
        loaded.broke("two-threads")
    thread.join(20)
    assert results == [False]


def test_freeing_what_a_launch_uses(loaded: Loaded) -> None:
    ids_of(loaded)
    variant = loaded.runtime.variants("embedding_cache")[0]
    memory = loaded.handle.allocate(variant.outputs[0].size)
    outputs = [variant.outputs[0].at(memory.address)]
    assert loaded.runtime.launch("embedding_cache", variant.inputs, outputs)
    loaded.handle.free_memory(memory)
    loaded.broke("free-in-use")


def test_destroying_a_runtime_at_work(loaded: Loaded) -> None:
    variant = loaded.runtime.variants("block_cache_0")[0]
    ids_of(loaded)
    for tensor in variant.inputs:
        loaded.handle.fill(tensor.address, tensor.size)
    embedding = loaded.runtime.variants("embedding_cache")[0]
    states = [embedding.outputs[0].at(variant.inputs[0].address)]
    assert loaded.runtime.launch("embedding_cache", embedding.inputs, states)
    loaded.runtime.destroy()
    loaded.broke("runtime-in-use")


def test_closing_a_handle_that_still_has_something(loaded: Loaded) -> None:
    loaded.handle.free()
    loaded.broke("handle-in-use")
    other = loaded.chip.open()
    other.allocate(100)
    other.free()
    loaded.broke("leak", 2)
    assert loaded.chip.counter("allocations") == 0


def test_launches_with_wrong_tensors(loaded: Loaded) -> None:
    ids_of(loaded)
    runtime = loaded.runtime
    variant = runtime.variants("embedding_cache")[0]
    (ids,), (out,) = variant.inputs, variant.outputs
    assert not runtime.launch("block_9", variant.inputs, variant.outputs)
    loaded.broke("unknown-net", 1)
    assert not runtime.launch("embedding_cache", [ids, ids], [out])
    loaded.broke("wrong-count", 2)
    assert not runtime.launch("embedding_cache", [ids.shaped(1, 2)], [out])
    loaded.broke("wrong-shape", 3)
    assert not runtime.launch("embedding_cache", [ids.shaped(1, 0)], [out])
    loaded.broke("wrong-shape", 4)
    wrong = type(ids)(FLOAT32, ids.dims, ids.address, ids.size)
    assert not runtime.launch("embedding_cache", [wrong], [out])
    loaded.broke("wrong-type", 5)
    assert not runtime.launch("embedding_cache", [ids.at(ids.address, 2)], [out])
    loaded.broke("small-memory", 6)
    assert not runtime.launch("embedding_cache", [ids], [out.at(out.address, out.size - 1)])
    loaded.broke("small-memory", 7)
    assert not runtime.launch("embedding_cache", [ids], [out.at(out.address, 1 << 30)])
    loaded.broke("bad-address", 8)
    assert not runtime.launch("embedding_cache", [ids.at(64)], [out])
    loaded.broke("bad-address", 9)


def test_dynamic_nets_want_room_for_their_maximum(loaded: Loaded) -> None:
    variant = loaded.runtime.variants("block_0")[0]
    k = variant.outputs[1]
    outputs = [variant.outputs[0], k.at(k.address, k.size - 1), variant.outputs[2]]
    inputs = [variant.inputs[0].shaped(1, 2, 8), variant.inputs[1].shaped(1, 2)]
    assert not loaded.runtime.launch("block_0", inputs, outputs)
    loaded.broke("small-memory")
    inputs[0] = variant.inputs[0].shaped(1, 5, 8)
    assert not loaded.runtime.launch("block_0", inputs, variant.outputs)
    loaded.broke("wrong-shape", 2)


def test_a_tensor_may_not_reach_into_the_next_of_its_net(loaded: Loaded) -> None:
    """The row behind a slot's K is its own; the one after is not there."""
    k = loaded.runtime.variants("block_cache_0")[0].inputs[3]
    row_bytes = k.size // k.dims[1]
    assert loaded.handle.fill(k.address, k.size + row_bytes) == SUCCESS
    assert loaded.handle.fill(k.address, 1 << 16) == BAD_PARAMETER
    loaded.broke("bad-address")


def test_scratch_memory_does_not_survive_the_next_launch(loaded: Loaded) -> None:
    ids_of(loaded)
    assert loaded.embed()
    head = loaded.runtime.variants("lm_head")[0]
    # The head reads what the embedding left behind in the memory that both use.
    loaded.handle.sync()
    assert loaded.embed()
    assert loaded.runtime.launch("lm_head", head.inputs, head.outputs)
    assert loaded.chip.last_rule() in ("nan-state", "wrong-state")


def test_an_id_outside_of_the_vocabulary_gives_zeros(loaded: Loaded) -> None:
    address = loaded.runtime.variants("embedding_cache")[0].inputs[0].address
    loaded.handle.upload(address, np.array([64], np.int32))
    assert loaded.embed()
    loaded.handle.sync()
    out = loaded.runtime.variants("embedding_cache")[0].outputs[0]
    assert not loaded.handle.download(out.address, 8, "uint16")[1].any()
    loaded.broke("unknown-id")


def test_sizes_that_are_no_sizes(loaded: Loaded) -> None:
    assert loaded.handle.malloc(0)[0] == BAD_PARAMETER
    loaded.broke("empty-allocation")


def test_copies_beyond_their_descriptors(loaded: Loaded) -> None:
    memory, other = loaded.handle.allocate(100), loaded.handle.allocate(100)
    lib, size_t = loaded.chip.lib, ctypes.c_size_t
    small = Memory(address=other.address, size=10)
    status = lib.bm_memcpy_d2d_byte(
        *(loaded.handle.number, small, size_t(0), memory, size_t(0), size_t(11))
    )
    assert status == BAD_PARAMETER
    loaded.broke("past-the-end")


def test_fills_have_values_of_1_to_4_bytes(loaded: Loaded) -> None:
    memory = loaded.handle.allocate(8)
    value = ctypes.c_uint32(0x04030201)
    fill = loaded.chip.lib.bm_memset_device_ext
    assert fill(loaded.handle.number, ctypes.byref(value), 5, memory) == BAD_PARAMETER
    loaded.broke("bad-mode")
    assert fill(loaded.handle.number, ctypes.byref(value), 3, memory) == SUCCESS
    assert loaded.handle.download(memory.address, 8, "uint8")[1].tolist() == [
        1,
        2,
        3,
        1,
        2,
        3,
        1,
        2,
    ]


def test_memory_runs_out_at_its_size(loaded: Loaded) -> None:
    free = 4_000_000 - loaded.chip.counter("used_bytes")
    assert loaded.handle.malloc(free + 1)[0] == NO_MEMORY
    memory = loaded.handle.allocate(free)
    assert loaded.handle.malloc(1)[0] == NO_MEMORY
    loaded.handle.free_memory(memory)
    assert loaded.handle.malloc(1)[0] == SUCCESS
    assert loaded.chip.broken_rules == 0


def test_a_bmodel_that_does_not_fit_is_refused_and_leaves_nothing(
    new_chip: NewChip, tmp_path: Path
) -> None:
    chip = new_chip("[chip]\nmemory_bytes = 100_000")
    handle = chip.open()
    runtime = handle.runtime()
    assert not runtime.load(write_bmodel(tmp_path / "m.bmodel", BATCHED))
    runtime.destroy()
    assert chip.counter("used_bytes") == 0
    assert chip.broken_rules == 0
