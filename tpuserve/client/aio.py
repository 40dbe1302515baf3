"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc
import grpc.aio

from tpuserve import errors
from tpuserve.client import convert, types
from tpuserve.rpc.options import channel_options
from tpuserve.v1 import generation_pb2, generation_pb2_grpc

_Answer = TypeVar("_Answer")


class AsyncClient:
    """`Client` for an event loop; made inside the running loop that uses it.

    A stream is cancelled, and its slot freed, when its generator is closed: by `aclose()`
    (`contextlib.aclosing`), by cancelling the task that reads it, or when it is dropped.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = grpc.aio.insecure_channel(address, options=channel_options())
        # grpc's stub takes both kinds of channel; its types know an AsyncStub for this one.
        self._stub: generation_pb2_grpc.GenerationAsyncStub = generation_pb2_grpc.GenerationStub(
            self._channel
        )

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel what runs and disconnect."""
        await self._channel.close()

    async def wait_connected(self, timeout_s: float) -> None:
        """Raises Unavailable when no server answers within `timeout_s`."""
        try:
            await asyncio.wait_for(self._channel.channel_ready(), timeout_s)
        except asyncio.TimeoutError:
            raise errors.Unavailable(f"no server answers at {self._address}") from None

    def chat(
        self, messages: Sequence[types.Message], options: types.Options = types.DEFAULTS
    ) -> AsyncGenerator[types.Chunk, None]:
        """Answer a conversation: Started, Deltas, and one Finished per completion."""
        request = convert.chat_request(messages, options)
        return self._stream(lambda: self._stub.Chat(request, timeout=options.timeout_s))

    def generate(
        self, prompt: convert.Prompt, options: types.Options = types.DEFAULTS
    ) -> AsyncGenerator[types.Chunk, None]:
        """Continue a text or token ids."""
        request = convert.generate_request(prompt, options)
        return self._stream(lambda: self._stub.Generate(request, timeout=options.timeout_s))

    async def chat_once(
        self, messages: Sequence[types.Message], options: types.Options = types.DEFAULTS
    ) -> types.Reply:
        request = convert.chat_request(messages, options)
        return convert.reply(
            await self._unary(lambda: self._stub.ChatOnce(request, timeout=options.timeout_s))
        )

    async def generate_once(
        self, prompt: convert.Prompt, options: types.Options = types.DEFAULTS
    ) -> types.Reply:
        request = convert.generate_request(prompt, options)
        return convert.reply(
            await self._unary(lambda: self._stub.GenerateOnce(request, timeout=options.timeout_s))
        )

    async def tokenize(
        self,
        source: str | Sequence[types.Message],
        *,
        model: str = "",
        add_special_tokens: bool | None = None,
        timeout_s: float | None = None,
    ) -> types.Tokens:
        """Ids of a text, or of a conversation as the model would see it."""
        request = convert.tokenize_request(source, model, add_special_tokens)
        return convert.tokens(
            await self._unary(lambda: self._stub.Tokenize(request, timeout=timeout_s))
        )

    async def detokenize(
        self,
        ids: Sequence[int],
        *,
        model: str = "",
        keep_special_tokens: bool = False,
        timeout_s: float | None = None,
    ) -> str:
        request = generation_pb2.DetokenizeRequest(
            model=model, ids=ids, keep_special_tokens=keep_special_tokens
        )
        reply = await self._unary(lambda: self._stub.Detokenize(request, timeout=timeout_s))
        return reply.text

    async def models(self, *, timeout_s: float | None = None) -> list[types.Model]:
        request = generation_pb2.ListModelsRequest()
        listed = await self._unary(lambda: self._stub.ListModels(request, timeout=timeout_s))
        return [convert.model(item) for item in listed.models]

    async def _unary(self, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        try:
            return await call()
        except grpc.RpcError as failure:
            raise convert.error(failure, self._address) from failure

    async def _stream(self, start: Callable[[], Any]) -> AsyncGenerator[types.Chunk, None]:
        call = start()
        try:
            async for message in call:
                chunk = convert.chunk(message)
                if chunk is not None:
                    yield chunk
        except grpc.RpcError as failure:
            raise convert.error(failure, self._address) from failure
        finally:
            call.cancel()
