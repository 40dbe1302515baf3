"""The load: streams over one connection to a gateway, and submissions straight to a device."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import grpc.aio

from tpuserve.rpc.options import channel_options
from tpuserve.v1 import (
    chat_pb2,
    device_pb2,
    device_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
)


@dataclass(frozen=True, slots=True)
class Stream:
    """One finished request; stamps are `time.perf_counter()` seconds at the client."""

    sent_s: float
    end_s: float
    # One for each message with tokens; a client that falls behind gets several tokens in one.
    arrivals_s: tuple[float, ...]
    tokens: int
    text: str

    @property
    def ttft_s(self) -> float:
        return self.arrivals_s[0] - self.sent_s

    @property
    def gaps_s(self) -> tuple[float, ...]:
        """Between messages, so without the prefill."""
        return tuple(b - a for a, b in itertools.pairwise(self.arrivals_s))

    @property
    def decode_tokens_per_s(self) -> float:
        """First token to last; the first message must carry one token only."""
        return (self.tokens - 1) / (self.arrivals_s[-1] - self.arrivals_s[0])

    @property
    def tokens_per_s(self) -> float:
        """Sent to ended."""
        return self.tokens / (self.end_s - self.sent_s)


def _greedy() -> generation_pb2.SamplingParams:
    # Every field is set, since a device, unlike a gateway, knows no defaults.
    return generation_pb2.SamplingParams(
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        penalty_window_tokens=0,
        seed=0,
    )


def chat_request(question: str, max_tokens: int) -> generation_pb2.ChatRequest:
    """Greedy, and exactly `max_tokens` long."""
    return generation_pb2.ChatRequest(
        messages=[
            chat_pb2.Message(role=chat_pb2.ROLE_USER, content=[chat_pb2.ContentPart(text=question)])
        ],
        sampling=_greedy(),
        stopping=generation_pb2.StoppingParams(max_tokens=max_tokens, ignore_eos=True),
    )


class Gateway:
    """A client of the public API."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: generation_pb2_grpc.GenerationAsyncStub = generation_pb2_grpc.GenerationStub(
            channel
        )

    async def chat(self, request: generation_pb2.ChatRequest) -> Stream:
        sent_s = time.perf_counter()
        arrivals_s: list[float] = []
        texts: list[str] = []
        tokens = 0
        async for chunk in self._stub.Chat(request):
            if chunk.WhichOneof("event") == "delta" and chunk.delta.token_ids:
                arrivals_s.append(time.perf_counter())
                tokens += len(chunk.delta.token_ids)
            texts.append(chunk.delta.text)
        return Stream(sent_s, time.perf_counter(), tuple(arrivals_s), tokens, "".join(texts))

    async def prompt_ids(self, request: generation_pb2.ChatRequest) -> list[int]:
        """The request's conversation as the model sees it."""
        chat = generation_pb2.Conversation(messages=request.messages)
        reply = await self._stub.Tokenize(generation_pb2.TokenizeRequest(chat=chat))
        return list(reply.ids)


@dataclass(frozen=True, slots=True)
class FirstToken:
    """elapsed_s: from Submit to its frame. cached_tokens: of the prompt, resident before."""

    elapsed_s: float
    cached_tokens: int


class Device:
    """A client of one device session: one request at a time."""

    def __init__(
        self,
        call: grpc.aio.StreamStreamCall[device_pb2.Command, device_pb2.Event],
        info: device_pb2.DeviceInfo,
    ) -> None:
        self.info = info
        self._call = call
        self._count = 0

    async def first_token_s(self, prompt_ids: Sequence[int]) -> float:
        """Seconds from Submit to the frame with the first and only token."""
        return (await self.first_token(prompt_ids)).elapsed_s

    async def first_token(self, prompt_ids: Sequence[int]) -> FirstToken:
        """Submit for one token and wait for it."""
        self._count += 1
        submit = device_pb2.Submit(
            request_id=str(self._count),
            bmodel_sha256=self.info.model.bmodel_sha256,
            prompt_ids=prompt_ids,
            sampling=_greedy(),
            max_tokens=1,
        )
        sent_s = time.perf_counter()
        await self._call.write(device_pb2.Command(submits=[submit]))
        cached_tokens = 0
        while True:
            event = await self._read()
            cached_tokens += event.accepted.cached_tokens
            if any(emission.ids for emission in event.frame.emissions):
                return FirstToken(time.perf_counter() - sent_s, cached_tokens)

    async def together(
        self, prompts: Sequence[Sequence[int]], max_tokens: int
    ) -> list[list[float]]:
        """Submit all at once; when each one's tokens came, by `time.perf_counter()`."""
        self._count += 1
        keys = [f"{self._count}.{number}" for number in range(len(prompts))]
        submits = [
            device_pb2.Submit(
                request_id=key,
                bmodel_sha256=self.info.model.bmodel_sha256,
                prompt_ids=prompt_ids,
                sampling=_greedy(),
                max_tokens=max_tokens,
            )
            for key, prompt_ids in zip(keys, prompts, strict=True)
        ]
        await self._call.write(device_pb2.Command(submits=submits))
        arrivals_s: dict[str, list[float]] = {key: [] for key in keys}
        left = len(keys)
        while left:
            event = await self._read()
            now_s = time.perf_counter()
            for emission in event.frame.emissions:
                arrivals_s[emission.request_id] += [now_s] * len(emission.ids)
                left -= bool(emission.finish)
        return list(arrivals_s.values())

    async def _read(self) -> device_pb2.Event:
        event = await self._call.read()
        if event is grpc.aio.EOF:
            raise ConnectionError("the device ended the session")
        assert isinstance(event, device_pb2.Event)
        if event.WhichOneof("event") == "rejected":
            raise ValueError(f"the device refused: {event.rejected.detail}")
        return event


@asynccontextmanager
async def gateway(address: str) -> AsyncIterator[Gateway]:
    """Connected when the block begins."""
    async with grpc.aio.insecure_channel(address, options=channel_options()) as channel:
        await asyncio.wait_for(channel.channel_ready(), 20)
        yield Gateway(channel)


@asynccontextmanager
async def device(address: str) -> AsyncIterator[Device]:
    async with grpc.aio.insecure_channel(address, options=channel_options()) as channel:
        stub: device_pb2_grpc.DeviceAsyncStub = device_pb2_grpc.DeviceStub(channel)
        info = await stub.GetInfo(device_pb2.GetDeviceInfoRequest())
        call = stub.Session()
        try:
            yield Device(call, info)
        finally:
            call.cancel()
