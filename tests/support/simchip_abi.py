"""The simulated chip through its C functions, as a program without tpuserve's core calls them.

The structs are declared here once more, so that an error in the core's declarations shows.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SUCCESS, NOT_READY, FAILURE, TIMEOUT, BAD_PARAMETER, NO_MEMORY = range(6)
NOT_SUPPORTED = 9
SHARE_MEMORY = 1
FLOAT32, FLOAT16, INT32, BFLOAT16 = 0, 1, 6, 8


class Memory(ctypes.Structure):
    _fields_ = (
        ("address", ctypes.c_uint64),
        ("reserved", ctypes.c_uint32),
        ("dmabuf_fd", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
    )


class Shape(ctypes.Structure):
    _fields_ = (("rank", ctypes.c_int), ("dims", ctypes.c_int * 8))


class Tensor(ctypes.Structure):
    _fields_ = (
        ("dtype", ctypes.c_int),
        ("shape", Shape),
        ("memory", Memory),
        ("store_mode", ctypes.c_int),
    )


class Stage(ctypes.Structure):
    _fields_ = (
        ("input_shapes", ctypes.POINTER(Shape)),
        ("output_shapes", ctypes.POINTER(Shape)),
        ("input_mems", ctypes.POINTER(Memory)),
        ("output_mems", ctypes.POINTER(Memory)),
    )


class NetInfo(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("is_dynamic", ctypes.c_bool),
        ("input_num", ctypes.c_int),
        ("input_names", ctypes.POINTER(ctypes.c_char_p)),
        ("input_dtypes", ctypes.POINTER(ctypes.c_int)),
        ("input_scales", ctypes.POINTER(ctypes.c_float)),
        ("output_num", ctypes.c_int),
        ("output_names", ctypes.POINTER(ctypes.c_char_p)),
        ("output_dtypes", ctypes.POINTER(ctypes.c_int)),
        ("output_scales", ctypes.POINTER(ctypes.c_float)),
        ("stage_num", ctypes.c_int),
        ("stages", ctypes.POINTER(Stage)),
        ("max_input_bytes", ctypes.POINTER(ctypes.c_size_t)),
        ("max_output_bytes", ctypes.POINTER(ctypes.c_size_t)),
        ("input_zero_point", ctypes.POINTER(ctypes.c_int)),
        ("output_zero_point", ctypes.POINTER(ctypes.c_int)),
        ("input_loc_devices", ctypes.POINTER(ctypes.c_int)),
        ("output_loc_devices", ctypes.POINTER(ctypes.c_int)),
        ("core_num", ctypes.c_int),
        ("addr_mode", ctypes.c_int32),
    )


class Stat(ctypes.Structure):
    _fields_ = (
        ("total_mib", ctypes.c_int),
        ("used_mib", ctypes.c_int),
        ("utilisation_percent", ctypes.c_int),
        ("heap_count", ctypes.c_int),
        ("heaps", ctypes.c_uint * 12),
    )


@dataclass(frozen=True)
class Argument:
    """A tensor of a launch; by default the net's own memory."""

    dtype: int
    dims: tuple[int, ...]
    address: int
    size: int

    def at(self, address: int, size: int | None = None) -> Argument:
        return replace(self, address=address, size=self.size if size is None else size)

    def shaped(self, *dims: int) -> Argument:
        return replace(self, dims=dims)

    def struct(self) -> Tensor:
        shape = Shape(len(self.dims), (ctypes.c_int * 8)(*self.dims))
        return Tensor(self.dtype, shape, Memory(address=self.address, size=self.size), 0)


@dataclass(frozen=True)
class Variant:
    inputs: tuple[Argument, ...]
    outputs: tuple[Argument, ...]


class Simchip:
    """One copy of the library; a copy has chips, handles and counters of its own."""

    def __init__(self, library: Path) -> None:
        self.lib = ctypes.CDLL(str(library))
        self.lib.simchip_counter.restype = ctypes.c_uint64
        self.lib.bmrt_create.restype = ctypes.c_void_p
        self.lib.bmrt_create.argtypes = [ctypes.c_void_p]
        self.lib.bmrt_load_bmodel.restype = ctypes.c_bool
        self.lib.bmrt_launch_tensor_ex.restype = ctypes.c_bool
        self.lib.bmrt_get_network_info.restype = ctypes.POINTER(NetInfo)
        self._handles: list[Handle] = []

    def close(self) -> None:
        """Gives back what is still there; leaks are told when a process ends."""
        for handle in self._handles:
            handle.sync()
            for runtime in handle.runtimes:
                runtime.destroy()
            handle.free()

    def counter(self, name: str) -> int:
        return int(self.lib.simchip_counter(name.encode()))

    @property
    def broken_rules(self) -> int:
        return self.counter("broken_rules")

    def last_rule(self) -> str:
        """The name of the rule that was broken last; empty before the first."""
        text = ctypes.create_string_buffer(400)
        self.lib.simchip_last_broken_rule(text, ctypes.c_size_t(len(text)))
        return text.value.decode().partition(":")[0]

    def open(self, chip: int = 0) -> Handle:
        number = ctypes.c_void_p()
        status = self.lib.bm_dev_request(ctypes.byref(number), chip)
        assert status == SUCCESS, status
        self._handles.append(Handle(self, number))
        return self._handles[-1]


class Handle:
    """A chip that was opened. Calls return statuses where they are what a test is about."""

    def __init__(self, chip: Simchip, number: ctypes.c_void_p) -> None:
        self.chip = chip
        self.number = number
        self.runtimes: list[Runtime] = []

    def free(self) -> None:
        self.chip.lib.bm_dev_free(self.number)

    def malloc(self, size: int) -> tuple[int, Memory]:
        memory = Memory()
        status = self.chip.lib.bm_malloc_device_byte(
            self.number, ctypes.byref(memory), ctypes.c_uint(size)
        )
        return status, memory

    def allocate(self, size: int) -> Memory:
        status, memory = self.malloc(size)
        assert status == SUCCESS
        return memory

    def free_memory(self, memory: Memory) -> None:
        self.chip.lib.bm_free_device(self.number, memory)

    def upload(self, address: int, data: NDArray[np.generic]) -> int:
        data = np.ascontiguousarray(data)
        memory = Memory(address=address, size=data.nbytes)
        return int(
            self.chip.lib.bm_memcpy_s2d(self.number, memory, data.ctypes.data_as(ctypes.c_void_p))
        )

    def download(self, address: int, count: int, dtype: str) -> tuple[int, NDArray[np.generic]]:
        data = np.zeros(count, dtype=dtype)
        memory = Memory(address=address, size=data.nbytes)
        status = self.chip.lib.bm_memcpy_d2s(
            self.number, data.ctypes.data_as(ctypes.c_void_p), memory
        )
        return int(status), data

    def copy(self, target: int, source: int, size: int) -> int:
        size_t = ctypes.c_size_t
        return int(
            self.chip.lib.bm_memcpy_d2d_byte(
                *(self.number, Memory(address=target, size=size), size_t(0)),
                *(Memory(address=source, size=size), size_t(0), size_t(size)),
            )
        )

    def fill(self, address: int, size: int, value: int = 0) -> int:
        byte = ctypes.c_uint8(value)
        memory = Memory(address=address, size=size)
        return int(self.chip.lib.bm_memset_device_ext(self.number, ctypes.byref(byte), 1, memory))

    def sync(self) -> int:
        return int(self.chip.lib.bm_thread_sync(self.number))

    def stat(self) -> tuple[int, Stat]:
        stat = Stat()
        return int(self.chip.lib.bm_get_stat(self.number, ctypes.byref(stat))), stat

    def runtime(self, bmodel: Path | None = None) -> Runtime:
        """With a bmodel, one that shares scratch memory and has loaded it."""
        runtime = Runtime(self, ctypes.c_void_p(self.chip.lib.bmrt_create(self.number)))
        self.runtimes.append(runtime)
        if bmodel is not None:
            self.chip.lib.bmrt_set_flags(runtime.number, ctypes.c_uint32(SHARE_MEMORY))
            assert runtime.load(bmodel)
        return runtime


class Runtime:
    def __init__(self, handle: Handle, number: ctypes.c_void_p) -> None:
        self.lib = handle.chip.lib
        self.number = number

    def load(self, bmodel: Path) -> bool:
        return bool(self.lib.bmrt_load_bmodel(self.number, str(bmodel).encode()))

    def destroy(self) -> None:
        self.lib.bmrt_destroy(self.number)

    def variants(self, net: str) -> list[Variant]:
        info = self.lib.bmrt_get_network_info(self.number, net.encode()).contents
        return [
            Variant(
                _arguments(info.input_num, info.input_dtypes, stage.input_shapes, stage.input_mems),
                _arguments(
                    info.output_num, info.output_dtypes, stage.output_shapes, stage.output_mems
                ),
            )
            for stage in info.stages[: info.stage_num]
        ]

    def launch(self, net: str, inputs: Sequence[Argument], outputs: Sequence[Argument]) -> bool:
        given = (Tensor * len(inputs))(*(argument.struct() for argument in inputs))
        wanted = (Tensor * len(outputs))(*(argument.struct() for argument in outputs))
        return bool(
            self.lib.bmrt_launch_tensor_ex(
                *(self.number, net.encode(), given, len(inputs), wanted, len(outputs)),
                *(ctypes.c_bool(True), ctypes.c_bool(False)),
            )
        )


def _arguments(
    count: int,
    dtypes: ctypes._Pointer[ctypes.c_int],
    shapes: ctypes._Pointer[Shape],
    memories: ctypes._Pointer[Memory],
) -> tuple[Argument, ...]:
    return tuple(
        Argument(
            dtypes[i],
            tuple(shapes[i].dims[: shapes[i].rank]),
            memories[i].address,
            memories[i].size,
        )
        for i in range(count)
    )
