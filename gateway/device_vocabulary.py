"""The vocabulary of one device: put there before the first request that needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeAlias

import grpc
import grpc.aio

from gateway.output_formats import WireVocabulary
from tpuserve import errors
from tpuserve.rpc.status import from_rpc_error
from tpuserve.v1 import device_pb2, device_pb2_grpc, output_pb2

_TIMEOUT_S: Final = 30.0

Done: TypeAlias = Callable[[errors.TpuserveError | None], None]


class DeviceVocabulary:
    """All methods run on the event loop and never wait."""

    def __init__(self, stub: device_pb2_grpc.DeviceAsyncStub) -> None:
        self._stub = stub
        self._there = ""
        self._puts: dict[str, tuple[asyncio.Task[None], list[Done]]] = {}

    def reset(self, sha256: str) -> None:
        """The device says what it has; what was under way to it is forgotten."""
        self._there = sha256
        puts, self._puts = self._puts, {}
        for task, _ in puts.values():
            task.cancel()

    def has(self, vocabulary: WireVocabulary) -> bool:
        return self._there == vocabulary.sha256

    def put(self, vocabulary: WireVocabulary, done: Done) -> None:
        """Call `done` once the device has it, or with the error that it answers with."""
        if vocabulary.sha256 not in self._puts:
            task = asyncio.create_task(self._put(vocabulary))
            self._puts[vocabulary.sha256] = (task, [])
        self._puts[vocabulary.sha256][1].append(done)

    async def _put(self, vocabulary: WireVocabulary) -> None:
        error: errors.TpuserveError | None = None
        message = output_pb2.Vocabulary.FromString(vocabulary.data)
        try:
            await self._stub.PutVocabulary(
                device_pb2.PutVocabularyRequest(vocabulary=message), timeout=_TIMEOUT_S
            )
            self._there = vocabulary.sha256
        except grpc.aio.AioRpcError as refusal:
            error = from_rpc_error(refusal, "device")
            if refusal.code() is grpc.StatusCode.UNIMPLEMENTED:
                error = errors.FeatureMissing("the device takes no output formats")
        _, waiting = self._puts.pop(vocabulary.sha256)
        for done in waiting:
            done(error)
