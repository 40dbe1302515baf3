"""The client for threads and scripts."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc

from tpuserve import errors
from tpuserve.client import convert, types
from tpuserve.rpc.options import channel_options
from tpuserve.v1 import generation_pb2, generation_pb2_grpc

_Answer = TypeVar("_Answer")


class Client:
    """A connection to a gateway at `host:port` or `unix:/path`; safe to share between threads.

    Every call raises a subclass of `tpuserve.errors.TpuserveError`. A stream is cancelled, and its
    slot freed, when its iterator is closed or dropped.

        with Client("127.0.0.1:50051") as client:
            for chunk in client.chat([Message("user", "What is a bmodel?")]):
                ...
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = grpc.insecure_channel(address, options=channel_options())
        self._stub = generation_pb2_grpc.GenerationStub(self._channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what runs and disconnect."""
        self._channel.close()

    def wait_connected(self, timeout_s: float) -> None:
        """Raises Unavailable when no server answers within `timeout_s`."""
        try:
            grpc.channel_ready_future(self._channel).result(timeout=timeout_s)
        except grpc.FutureTimeoutError:
            raise errors.Unavailable(f"no server answers at {self._address}") from None

    def chat(
        self, messages: Sequence[types.Message], options: types.Options = types.DEFAULTS
    ) -> Generator[types.Chunk, None, None]:
        """Answer a conversation: Started, Deltas, and one Finished per completion."""
        request = convert.chat_request(messages, options)
        return self._stream(lambda: self._stub.Chat(request, timeout=options.timeout_s))

    def generate(
        self, prompt: convert.Prompt, options: types.Options = types.DEFAULTS
    ) -> Generator[types.Chunk, None, None]:
        """Continue a text or token ids."""
        request = convert.generate_request(prompt, options)
        return self._stream(lambda: self._stub.Generate(request, timeout=options.timeout_s))

    def chat_once(
        self, messages: Sequence[types.Message], options: types.Options = types.DEFAULTS
    ) -> types.Reply:
        request = convert.chat_request(messages, options)
        return convert.reply(
            self._unary(lambda: self._stub.ChatOnce(request, timeout=options.timeout_s))
        )

    def generate_once(
        self, prompt: convert.Prompt, options: types.Options = types.DEFAULTS
    ) -> types.Reply:
        request = convert.generate_request(prompt, options)
        return convert.reply(
            self._unary(lambda: self._stub.GenerateOnce(request, timeout=options.timeout_s))
        )

    def tokenize(
        self,
        source: str | Sequence[types.Message],
        *,
        model: str = "",
        add_special_tokens: bool | None = None,
        timeout_s: float | None = None,
    ) -> types.Tokens:
        """Ids of a text, or of a conversation as the model would see it."""
        request = convert.tokenize_request(source, model, add_special_tokens)
        return convert.tokens(self._unary(lambda: self._stub.Tokenize(request, timeout=timeout_s)))

    def detokenize(
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
        return self._unary(lambda: self._stub.Detokenize(request, timeout=timeout_s)).text

    def models(self, *, timeout_s: float | None = None) -> list[types.Model]:
        request = generation_pb2.ListModelsRequest()
        listed = self._unary(lambda: self._stub.ListModels(request, timeout=timeout_s))
        return [convert.model(item) for item in listed.models]

    def _unary(self, call: Callable[[], _Answer]) -> _Answer:
        try:
            return call()
        except grpc.RpcError as failure:
            raise convert.error(failure, self._address) from failure

    def _stream(self, start: Callable[[], Any]) -> Generator[types.Chunk, None, None]:
        call = start()
        try:
            for message in call:
                chunk = convert.chunk(message)
                if chunk is not None:
                    yield chunk
        except grpc.RpcError as failure:
            raise convert.error(failure, self._address) from failure
        finally:
            call.cancel()
