"""A client of one device Session, as tests see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from tpuserve.rpc.options import channel_options
from tpuserve.v1 import device_pb2, device_pb2_grpc, generation_pb2

GREEDY = generation_pb2.SamplingParams(temperature=0.0)
TIMEOUT_S = 20.0


class SessionClient:
    """Sends commands and sorts the events that were read by request."""

    def __init__(self, stub: device_pb2_grpc.DeviceAsyncStub, sha256: str) -> None:
        self.stub = stub
        self.call = stub.Session()
        self.frames: list[device_pb2.Frame] = []
        self.accepted: dict[str, device_pb2.Accepted] = {}
        self.rejected: dict[str, device_pb2.Rejected] = {}
        self._sha256 = sha256
        self._emissions: dict[str, list[device_pb2.Emission]] = {}

    async def submit(
        self, request_id: str, prompt_ids: Sequence[int], max_tokens: int = 4, **fields: Any
    ) -> None:
        """Greedy unless `sampling` is given."""
        submit = self.submission(request_id, prompt_ids, max_tokens, **fields)
        await self.call.write(device_pb2.Command(submits=[submit]))

    async def submit_together(
        self, prompts: Mapping[str, Sequence[int]], max_tokens: int, **fields: Any
    ) -> None:
        """Prompts by request id, in one message."""
        submits = [self.submission(key, ids, max_tokens, **fields) for key, ids in prompts.items()]
        await self.call.write(device_pb2.Command(submits=submits))

    def submission(
        self, request_id: str, prompt_ids: Sequence[int], max_tokens: int, **fields: Any
    ) -> device_pb2.Submit:
        given = {"bmodel_sha256": self._sha256, "sampling": GREEDY, **fields}
        return device_pb2.Submit(
            request_id=request_id, prompt_ids=prompt_ids, max_tokens=max_tokens, **given
        )

    async def cancel(self, request_id: str) -> None:
        await self.call.write(
            device_pb2.Command(cancels=[device_pb2.Cancel(request_id=request_id)])
        )

    async def read(self) -> bool:
        """Take one event; False at the end of the stream."""
        event = await asyncio.wait_for(self.call.read(), TIMEOUT_S)
        if not isinstance(event, device_pb2.Event):
            return False
        kind = event.WhichOneof("event")
        if kind == "accepted":
            self.accepted[event.accepted.request_id] = event.accepted
        elif kind == "rejected":
            self.rejected[event.rejected.request_id] = event.rejected
        else:
            self.frames.append(event.frame)
            for emission in event.frame.emissions:
                assert emission.request_id in self.accepted or not emission.ids
                self._emissions.setdefault(emission.request_id, []).append(emission)
        return True

    async def read_all(self) -> None:
        while await self.read():
            pass

    async def result(self, request_id: str) -> tuple[list[int], str]:
        """Ids and the finish reason without its prefix, once the request has ended."""
        while not (finish := self.finish(request_id)):
            assert await self.read(), f"the stream ended before {request_id}"
        return self.ids(request_id), finish

    async def rejection(self, request_id: str) -> tuple[str, str]:
        """The code without its prefix, and the detail."""
        while request_id not in self.rejected:
            assert await self.read(), f"the stream ended before {request_id}"
        rejected = self.rejected[request_id]
        name = device_pb2.RejectCode.Name(rejected.code)
        return name.removeprefix("REJECT_CODE_"), rejected.detail

    def emissions(self, request_id: str) -> list[device_pb2.Emission]:
        return self._emissions.get(request_id, [])

    def forget(self, request_id: str) -> None:
        """Its id is used again."""
        del self._emissions[request_id]

    def ids(self, request_id: str) -> list[int]:
        return [token for emission in self.emissions(request_id) for token in emission.ids]

    def finish(self, request_id: str) -> str:
        """Empty while the request lives."""
        reasons = [emission.finish for emission in self.emissions(request_id) if emission.finish]
        assert len(reasons) <= 1
        if not reasons:
            return ""
        return generation_pb2.FinishReason.Name(reasons[0]).removeprefix("FINISH_REASON_")

    async def load(self) -> device_pb2.Load:
        return await self.stub.GetLoad(device_pb2.GetLoadRequest())

    async def until_idle(self) -> device_pb2.Load:
        """Polls until no request runs or waits on the device, whoever owns it."""
        deadline = asyncio.get_running_loop().time() + TIMEOUT_S
        while True:
            load = await self.load()
            if load.running == 0 and load.waiting == 0:
                return load
            assert asyncio.get_running_loop().time() < deadline, load
            await asyncio.sleep(0.005)


@asynccontextmanager
async def channel_to(address: str, *options: tuple[str, int]) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(
        address, options=[*channel_options(), *options]
    ) as channel:
        yield channel


@asynccontextmanager
async def device_session(
    address: str, sha256: str, *options: tuple[str, int]
) -> AsyncIterator[SessionClient]:
    """A session on a channel of its own; cancelled at the end if it still runs."""
    async with channel_to(address, *options) as channel:
        client = SessionClient(_stub(channel), sha256)
        try:
            yield client
        finally:
            client.call.cancel()


def _stub(channel: grpc.aio.Channel) -> device_pb2_grpc.DeviceAsyncStub:
    return device_pb2_grpc.DeviceStub(channel)
