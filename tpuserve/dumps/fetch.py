"""Gets a dump from a device service."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import grpc
import numpy as np
from numpy.typing import NDArray

from tpuserve import errors
from tpuserve.rpc import status
from tpuserve.v1 import device_pb2, device_pb2_grpc, dump_pb2

Array = NDArray[Any]

_DTYPES: Final = {"int32": "<i4", "float16": "<f2", "float32": "<f4", "bfloat16": "<u2"}


@dataclass(frozen=True, slots=True)
class DumpRequest:
    """layers: empty for all. decode_tokens: tokens behind the prompt that decode nets compute."""

    prompt_ids: tuple[int, ...]
    decode_tokens: int = 0
    layers: tuple[int, ...] = ()
    hidden_states: bool = True
    kv: bool = True


@dataclass(frozen=True, slots=True)
class Dump:
    """tensors: in the order in which a layer computes; bfloat16 as float32 of the same values.
    dtypes: of each as the chip holds it.
    """

    model: str
    bmodel_sha256: str
    prompt_tokens: int
    tensors: dict[str, Array]
    dtypes: dict[str, str]


def fetch(address: str, request: DumpRequest, *, timeout_s: float | None = None) -> Dump:
    """Raises TpuserveError."""
    with grpc.insecure_channel(address) as channel:
        stub = device_pb2_grpc.DeviceStub(channel)
        try:
            info = stub.GetInfo(device_pb2.GetDeviceInfoRequest(), timeout=timeout_s)
            replies = stub.DumpTensors(
                dump_pb2.DumpTensorsRequest(
                    bmodel_sha256=info.model.bmodel_sha256,
                    prompt_ids=request.prompt_ids,
                    decode_tokens=request.decode_tokens,
                    layers=request.layers,
                    kinds=_kinds(request),
                ),
                timeout=timeout_s,
            )
            found = list(_tensors(replies))
        except grpc.RpcError as error:
            raise status.from_rpc_error(error, f"device {address}") from error
    return Dump(
        model=info.model.name,
        bmodel_sha256=info.model.bmodel_sha256,
        prompt_tokens=len(request.prompt_ids),
        tensors={tensor.name: _array(tensor, data) for tensor, data in found},
        dtypes={tensor.name: tensor.dtype for tensor, _ in found},
    )


def _kinds(request: DumpRequest) -> list[dump_pb2.DumpKind.ValueType]:
    chosen = []
    if request.hidden_states:
        chosen.append(dump_pb2.DUMP_KIND_HIDDEN_STATES)
    if request.kv:
        chosen.append(dump_pb2.DUMP_KIND_KV)
    return chosen


def _tensors(
    replies: Iterator[dump_pb2.DumpTensorsReply],
) -> Iterator[tuple[dump_pb2.DumpedTensor, bytearray]]:
    """Raises InternalError when the bytes do not add up to the shapes."""
    tensor: dump_pb2.DumpedTensor | None = None
    data = bytearray()
    for reply in replies:
        if reply.HasField("tensor"):
            if tensor is not None:
                yield tensor, data
            tensor, data = reply.tensor, bytearray()
        else:
            data += reply.data
    if tensor is not None:
        yield tensor, data


def _array(tensor: dump_pb2.DumpedTensor, data: bytearray) -> Array:
    if tensor.dtype not in _DTYPES:
        raise errors.InternalError(f"{tensor.name} has dtype {tensor.dtype}, which is not known")
    dtype = np.dtype(_DTYPES[tensor.dtype])
    expected = math.prod(tensor.shape) * dtype.itemsize
    if len(data) != expected:
        raise errors.InternalError(f"{tensor.name} has {len(data)} bytes, not {expected}")
    array: Array = np.frombuffer(data, dtype).reshape(tuple(tensor.shape))
    if tensor.dtype == "bfloat16":
        # The upper half of a float32.
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array
