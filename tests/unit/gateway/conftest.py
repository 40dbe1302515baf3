"""A gateway with fake peers, all on the test's event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import grpc.aio
import pytest

from gateway.app import Gateway
from gateway.settings import Settings
from tests.unit.gateway.fakes import FakeDevice, FakeTokenizer, eventually
from tpuserve.v1 import generation_pb2_grpc


@dataclass
class World:
    gateway: Gateway
    tokenizer: FakeTokenizer
    devices: list[FakeDevice]
    stub: Any  # GenerationAsyncStub; Any, for grpc's call types are not generic at run time
    channel: grpc.aio.Channel
    http: aiohttp.ClientSession

    @property
    def device(self) -> FakeDevice:
        return self.devices[0]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway.http_port}"


Start = Callable[..., Any]


@asynccontextmanager
async def running(
    *devices: FakeDevice,
    tokenizer: FakeTokenizer | None = None,
    ready: bool = True,
    **settings: Any,
) -> AsyncIterator[World]:
    tokenizer = tokenizer or FakeTokenizer()
    fleet = list(devices) or [FakeDevice()]
    async with AsyncExitStack() as stack:
        for peer in (tokenizer, *fleet):
            await peer.start()
            stack.push_async_callback(peer.kill)
        gateway = Gateway(
            replace(
                Settings((tokenizer.address,), tuple(d.address for d in fleet)),
                grpc_listen="127.0.0.1:0",
                http_listen="127.0.0.1:0",
                drain_grace_s=0.2,
                **settings,
            )
        )
        await gateway.start()
        stack.push_async_callback(gateway.drain)
        channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{gateway.grpc_port}",
            # A receive window that stays small, for the tests with slow readers.
            options=[("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536)],
        )
        stack.push_async_callback(channel.close)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        if ready:
            await eventually(lambda: gateway.readiness()[0])
            await eventually(lambda: all(device.ready for device in gateway.devices))
        stub = generation_pb2_grpc.GenerationStub(channel)
        yield World(gateway, tokenizer, fleet, stub, channel, http)


@pytest.fixture
def start() -> Start:
    """`async with start(*devices, tokenizer=…, **settings) as world`."""
    return running


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running() as made:
        yield made
