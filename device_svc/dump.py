"""DumpTensors: one request, and what its layers computed as a stream of tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from device_svc import validation
from device_svc.engine_api import Engine, Sampling, StateShape, StateSource
from device_svc.recorder import Recorder
from device_svc.request import Emission, Finish, Refused, RejectReason, Request
from device_svc.sessions import FrameEvent, Sessions, SessionState
from tpuserve.errors import (
    DeadlineExceeded,
    FeatureMissing,
    InvalidArgument,
    Overloaded,
    TpuserveError,
    Unavailable,
)
from tpuserve.v1 import dump_pb2, generation_pb2

# Host memory of one dump, and of the bytes in one message.
MAX_DUMP_BYTES: Final = 1 << 30
_PART_BYTES: Final = 1 << 20
_REQUEST_ID: Final = "dump"
_KINDS: Final = (dump_pb2.DUMP_KIND_HIDDEN_STATES, dump_pb2.DUMP_KIND_KV)
_ITEM_BYTES: Final = {"float16": 2, "bfloat16": 2, "float32": 4}
_REFUSALS: Final[dict[RejectReason, type[TpuserveError]]] = {
    RejectReason.INVALID: InvalidArgument,
    RejectReason.BUSY: Overloaded,
    RejectReason.DRAINING: Unavailable,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked request."""

    prompt_ids: NDArray[np.int32]
    decode_tokens: int
    recorder: Recorder
    shape: StateShape


def plan(request: dump_pb2.DumpTensorsRequest, engine: Engine, sha256: str) -> Plan:
    """Raises InvalidArgument or FeatureMissing that names the value and the limit."""
    states = engine.states
    if states is None:
        raise FeatureMissing("this engine has no hidden states to show")
    try:
        return _plan(request, engine, states, sha256)
    except Refused as refused:
        raise _error_of(refused) from refused


def _plan(
    request: dump_pb2.DumpTensorsRequest, engine: Engine, states: StateSource, sha256: str
) -> Plan:
    model, shape = engine.shape, states.shape
    validation.check_identity(request.bmodel_sha256, sha256)
    tokens = len(request.prompt_ids) + request.decode_tokens
    validation.check_lengths(
        prompt_tokens=len(request.prompt_ids), resume_tokens=0, max_tokens=1, shape=model
    )
    if tokens >= model.context_length:
        raise InvalidArgument(
            f"{len(request.prompt_ids)} prompt_ids and decode_tokens {request.decode_tokens} "
            f"fill the context of {model.context_length} tokens"
        )
    layers = sorted(set(request.layers)) or list(range(shape.layers))
    if layers[-1] >= shape.layers:
        raise InvalidArgument(f"layers has {layers[-1]}, the model has 0 to {shape.layers - 1}")
    unknown = [kind for kind in request.kinds if kind not in _KINDS]
    if unknown:
        raise InvalidArgument(f"kinds has {unknown[0]}, which is not known")
    recorder = Recorder(
        tuple(layers),
        with_hidden=not request.kinds or dump_pb2.DUMP_KIND_HIDDEN_STATES in request.kinds,
        with_kv=not request.kinds or dump_pb2.DUMP_KIND_KV in request.kinds,
    )
    _check_size(recorder, shape, tokens)
    return Plan(
        prompt_ids=validation.check_ids("prompt_ids", request.prompt_ids, model),
        decode_tokens=request.decode_tokens,
        recorder=recorder,
        shape=shape,
    )


def _check_size(recorder: Recorder, shape: StateShape, tokens: int) -> None:
    numbers = recorder.with_hidden * shape.hidden_size
    numbers += 2 * recorder.with_kv * shape.kv_heads * shape.head_dim
    size_bytes = len(recorder.layers) * tokens * numbers * _ITEM_BYTES[shape.dtype]
    if size_bytes > MAX_DUMP_BYTES:
        raise InvalidArgument(
            f"{tokens} tokens of {len(recorder.layers)} layers are {size_bytes} bytes, "
            f"at most {MAX_DUMP_BYTES} are dumped: name fewer layers"
        )


async def run(
    wanted: Plan, engine: Engine, sessions: Sessions, deadline_s: float | None
) -> list[int]:
    """Run the request in a session of its own; the ids that went through the layers.

    Raises Overloaded, Unavailable, DeadlineExceeded. Cancelling ends the request.
    """
    session = sessions.open()
    try:
        try:
            key = sessions.admit(session, _REQUEST_ID)
        except Refused as refused:
            raise _error_of(refused) from refused
        request = Request(
            key=key,
            prompt_ids=wanted.prompt_ids,
            sampler=engine.sampler(Sampling(temperature=0.0), wanted.prompt_ids),
            # The token behind the last one is drawn, and not run.
            max_tokens=wanted.decode_tokens + 1,
            priority=generation_pb2.PRIORITY_DEFAULT,
            deadline_s=deadline_s,
            recorder=wanted.recorder,
        )
        sessions.submit(session, _REQUEST_ID, request)
        drawn = await _drawn(session)
    finally:
        sessions.close(session)
    return [*wanted.prompt_ids.tolist(), *drawn[: wanted.decode_tokens]]


async def _drawn(session: SessionState) -> list[int]:
    ids: list[int] = []
    while (event := await session.get()) is not None:
        if not isinstance(event, FrameEvent):
            continue
        for _, emission in event.emissions:
            ids += emission.ids
            if emission.finish is Finish.LENGTH:
                return ids
            if emission.finish is not None:
                raise _ended_early(emission)
    raise Unavailable("the device stopped")


def _ended_early(emission: Emission) -> TpuserveError:
    if emission.finish is Finish.DEADLINE:
        return DeadlineExceeded("the deadline passed before the dump was made")
    return Unavailable("the device could not run the request")


def replies(wanted: Plan, ids: list[int]) -> Iterator[dump_pb2.DumpTensorsReply]:
    """In the order in which a layer computes: K, V, hidden state."""
    shape, recorder = wanted.shape, wanted.recorder
    yield from _tensor("ids", "int32", (len(ids),), np.array(ids, dtype="<i4").view(np.uint8))
    for index, layer in enumerate(recorder.layers):
        if recorder.kv_rows is not None:
            kv_shape = (len(ids), shape.kv_heads, shape.head_dim)
            for number, name in enumerate(("k", "v")):
                rows = recorder.kv_rows[index, number]
                yield from _tensor(f"{name}_{layer}", shape.dtype, kv_shape, rows)
        if recorder.with_hidden:
            hidden = recorder.hidden_of(index)
            hidden_shape = (len(ids), shape.hidden_size)
            yield from _tensor(f"hidden_{layer}", shape.dtype, hidden_shape, hidden)


def _tensor(
    name: str, dtype: str, shape: tuple[int, ...], data: NDArray[np.uint8]
) -> Iterator[dump_pb2.DumpTensorsReply]:
    yield dump_pb2.DumpTensorsReply(
        tensor=dump_pb2.DumpedTensor(name=name, dtype=dtype, shape=shape)
    )
    flat = data.reshape(-1)
    for start in range(0, len(flat), _PART_BYTES):
        yield dump_pb2.DumpTensorsReply(data=flat[start : start + _PART_BYTES].tobytes())


def _error_of(refused: Refused) -> TpuserveError:
    return _REFUSALS.get(refused.reason, FeatureMissing)(refused.detail)
