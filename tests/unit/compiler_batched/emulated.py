"""Runs single nets of a bmodel on the chip emulator, for tests of what the compiler made.

The C ABI as `csrc/src/runtime/vendor_abi.h` declares it. Loading the emulator through the extension
first is what keeps its idle threads from taking the machine.
"""

from __future__ import annotations

import ctypes as c
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from device_svc import _core
from tpuserve import runtime_library

Array = NDArray[Any]

_DTYPES: Final = {0: np.float32, 1: np.float16, 6: np.int32}
_OVERLAP_SCRATCH: Final = 1


class _Memory(c.Structure):
    _fields_ = (
        ("address", c.c_uint64),
        ("reserved", c.c_uint32),
        ("dmabuf_fd", c.c_int32),
        ("flags", c.c_uint32),
        ("size", c.c_uint32),
    )


class _Shape(c.Structure):
    _fields_ = (("rank", c.c_int), ("dims", c.c_int * 8))


class _Tensor(c.Structure):
    _fields_ = (("dtype", c.c_int), ("shape", _Shape), ("memory", _Memory), ("store", c.c_int))


class _Stage(c.Structure):
    _fields_ = (
        ("input_shapes", c.POINTER(_Shape)),
        ("output_shapes", c.POINTER(_Shape)),
        ("input_memories", c.POINTER(_Memory)),
        ("output_memories", c.POINTER(_Memory)),
    )


class _NetInfo(c.Structure):
    _fields_ = (
        ("name", c.c_char_p),
        ("is_dynamic", c.c_bool),
        ("input_count", c.c_int),
        ("input_names", c.c_void_p),
        ("input_dtypes", c.POINTER(c.c_int)),
        ("input_scales", c.c_void_p),
        ("output_count", c.c_int),
        ("output_names", c.c_void_p),
        ("output_dtypes", c.POINTER(c.c_int)),
        ("output_scales", c.c_void_p),
        ("stage_count", c.c_int),
        ("stages", c.POINTER(_Stage)),
    )


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output at its own place in device memory."""

    dtype: int
    shape: tuple[int, ...]
    memory: Any


@dataclass(frozen=True, slots=True)
class NetVariant:
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


class Nets:
    """A bmodel on an emulated chip."""

    def __init__(self, bmodel: Path) -> None:
        found = runtime_library.find("emulator")
        _core.Library(str(found.directory), emulator=True)
        self._lib = c.CDLL(str(found.directory / "libbmlib.so.0"))
        self._rt = c.CDLL(str(found.directory / "libbmrt.so.1.0"))
        self._rt.bmrt_create.restype = c.c_void_p
        self._rt.bmrt_get_network_info.restype = c.POINTER(_NetInfo)
        self._chip = c.c_void_p()
        # The emulator comes with a constructor that makes the thread which loads it take subnormal
        # numbers for zero; this one is for the tests that follow.
        with ThreadPoolExecutor(1) as loader:
            opened = loader.submit(self._lib.bm_dev_request, c.byref(self._chip), 0)
            assert opened.result() == 0
        self._runtime = c.c_void_p(self._rt.bmrt_create(self._chip))
        self._rt.bmrt_set_flags(self._runtime, _OVERLAP_SCRATCH)
        assert self._rt.bmrt_load_bmodel(self._runtime, str(bmodel).encode())

    def close(self) -> None:
        self._rt.bmrt_destroy(self._runtime)
        self._lib.bm_dev_free(self._chip)

    def variants(self, net: str) -> list[NetVariant]:
        """Shape variants in the order of the file."""
        info = self._rt.bmrt_get_network_info(self._runtime, net.encode()).contents

        def ports(count: int, dtypes: Any, shapes: Any, memories: Any) -> tuple[Port, ...]:
            return tuple(
                Port(dtypes[i], tuple(shapes[i].dims[: shapes[i].rank]), memories[i])
                for i in range(count)
            )

        return [
            NetVariant(
                ports(info.input_count, info.input_dtypes, s.input_shapes, s.input_memories),
                ports(info.output_count, info.output_dtypes, s.output_shapes, s.output_memories),
            )
            for s in (info.stages[i] for i in range(info.stage_count))
        ]

    def write(self, memory: Any, values: Array, offset_bytes: int = 0) -> None:
        data = np.ascontiguousarray(values)
        part = self._part(memory, data.nbytes, offset_bytes)
        assert self._lib.bm_memcpy_s2d(self._chip, part, c.c_void_p(data.ctypes.data)) == 0

    def read(self, port: Port) -> Array:
        values = np.empty(port.shape, _DTYPES[port.dtype])
        part = self._part(port.memory, values.nbytes, 0)
        assert self._lib.bm_memcpy_d2s(self._chip, c.c_void_p(values.ctypes.data), part) == 0
        return values

    def run(self, net: str, variant: NetVariant, inputs: Sequence[Array | None]) -> list[Array]:
        """One launch; None leaves an input as it is in device memory.

        An input of a dynamic net may be shorter than its port.
        """
        shapes = []
        for port, values in zip(variant.inputs, inputs, strict=True):
            if values is None:
                shapes.append(port.shape)
                continue
            self.write(port.memory, np.asarray(values, _DTYPES[port.dtype]))
            shapes.append(values.shape)
        taken = _tensors(variant.inputs, shapes)
        given = _tensors(variant.outputs, [port.shape for port in variant.outputs])
        counts = len(taken), len(given)
        assert self._rt.bmrt_launch_tensor_ex(
            self._runtime, net.encode(), taken, counts[0], given, counts[1], True, False
        )
        assert self._lib.bm_thread_sync(self._chip) == 0
        return [self.read(port) for port in variant.outputs]

    @staticmethod
    def _part(memory: Any, size_bytes: int, offset_bytes: int) -> _Memory:
        assert offset_bytes + size_bytes <= memory.size
        address = memory.address + offset_bytes
        return _Memory(address, memory.reserved, memory.dmabuf_fd, memory.flags, size_bytes)


def _tensors(ports: Sequence[Port], shapes: Sequence[tuple[int, ...]]) -> Any:
    tensors = (_Tensor * len(ports))()
    for tensor, port, shape in zip(tensors, ports, shapes, strict=True):
        tensor.dtype = port.dtype
        tensor.shape.rank = len(shape)
        tensor.shape.dims[: len(shape)] = shape
        tensor.memory = port.memory
    return tensors
