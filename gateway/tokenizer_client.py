"""The session with one tokenizer service: unary encodes and one multiplexed Detokenize stream."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Protocol

import grpc
import grpc.aio

from gateway.answer import CallPiece, Text
from gateway.facts import SamplingDefaults, TokenizerFacts
from gateway.output_formats import WireVocabulary
from gateway.peer import CONNECT_TIMEOUT_S, Outbox, cancel_and_wait, stay_connected
from gateway.request import (
    ChatPrompt,
    Encoded,
    IdsPrompt,
    Message,
    PlacedImage,
    Prompt,
    Role,
    ToolChoice,
    ToolMode,
)
from gateway.sequence import Piece
from tpuserve import errors
from tpuserve.rpc.options import channel_options
from tpuserve.rpc.output_format import from_wire as output_format_from_wire
from tpuserve.rpc.status import from_rpc_error
from tpuserve.v1 import chat_pb2, tokenizer_pb2, tokenizer_pb2_grpc

if TYPE_CHECKING:
    from gateway.sequence import Sequence

_log = logging.getLogger(__name__)

# The tokenizer ends a stream whose messages are larger than twice this.
_MAX_MESSAGE_IDS: Final = 1 << 15
_VOCABULARY_TIMEOUT_S: Final = 30.0

_ROLES: Final = {
    Role.SYSTEM: chat_pb2.ROLE_SYSTEM,
    Role.USER: chat_pb2.ROLE_USER,
    Role.ASSISTANT: chat_pb2.ROLE_ASSISTANT,
    Role.TOOL: chat_pb2.ROLE_TOOL,
}


class TokenizerListener(Protocol):
    def tokenizer_changed(self, tokenizer: TokenizerClient, orphans: list[Sequence]) -> None:
        """It connected or was lost; `orphans` were detokenized on the lost stream."""


class TokenizerClient:
    """`run` keeps it connected; `ready` tells whether it can be used now.

    The stream is opened anew when it is lost. Sequences that were on it are handed to the
    listener, which attaches them to a tokenizer of the same model again.
    """

    def __init__(self, address: str, *, listener: TokenizerListener) -> None:
        self.address = address
        self.facts: TokenizerFacts | None = None
        self.ready = False
        self._listener = listener
        self._channel = grpc.aio.insecure_channel(address, options=channel_options())
        self._stub: tokenizer_pb2_grpc.TokenizerAsyncStub = tokenizer_pb2_grpc.TokenizerStub(
            self._channel
        )
        self._vocabulary: WireVocabulary | None = None
        self._vocabulary_lock = asyncio.Lock()
        self._live: dict[str, Sequence] = {}
        self._outbox: Outbox[tokenizer_pb2.DetokenizeItem] = Outbox()

    async def run(self) -> None:
        try:
            await stay_connected(self._serve, peer="tokenizer", address=self.address)
        finally:
            await self._channel.close()

    # Unary calls

    async def encode(
        self, prompt: Prompt, *, deadline_s: float | None, want_tokens: bool = False
    ) -> Encoded:
        if isinstance(prompt, IdsPrompt):
            return Encoded(prompt.ids)
        request = tokenizer_pb2.EncodeRequest(want_tokens=want_tokens)
        if isinstance(prompt, ChatPrompt):
            request.chat.CopyFrom(_chat_input(prompt))
        else:
            request.text = prompt.text
            request.add_special_tokens = prompt.add_special_tokens
        try:
            reply = await self._stub.Encode(request, timeout=_timeout_s(deadline_s))
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "tokenizer") from error
        demanded = reply.output_format if reply.HasField("output_format") else None
        images = prompt.images if isinstance(prompt, ChatPrompt) else []
        return Encoded(
            tuple(reply.ids),
            tuple(reply.tokens),
            None if demanded is None else output_format_from_wire(demanded),
            tuple(
                PlacedImage(data, placed.position)
                for data, placed in zip(images, reply.images, strict=True)
            ),
        )

    async def vocabulary(self) -> WireVocabulary:
        """Asked for once in the life of a connection."""
        async with self._vocabulary_lock:
            if self._vocabulary is None:
                request = tokenizer_pb2.GetVocabularyRequest()
                try:
                    reply = await self._stub.GetVocabulary(request, timeout=_VOCABULARY_TIMEOUT_S)
                except grpc.aio.AioRpcError as error:
                    raise from_rpc_error(error, "tokenizer") from error
                self._vocabulary = WireVocabulary(
                    reply.vocabulary.sha256, reply.vocabulary.SerializeToString()
                )
            return self._vocabulary

    async def decode(
        self, ids: tuple[int, ...], *, keep_special_tokens: bool, deadline_s: float | None
    ) -> str:
        request = tokenizer_pb2.DecodeRequest(ids=ids, keep_special_tokens=keep_special_tokens)
        try:
            reply = await self._stub.Decode(request, timeout=_timeout_s(deadline_s))
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "tokenizer") from error
        return reply.text

    # The stream

    def feed(self, sequence: Sequence, piece: Piece) -> None:
        """Send one piece; pieces of one event-loop turn travel in one message."""
        if not self.ready:
            sequence.detach()
            self._listener.tokenizer_changed(self, [sequence])
            return
        item = tokenizer_pb2.DetokenizeItem(
            request_id=piece.sequence_id,
            ids=piece.ids,
            token_bytes_of=piece.token_bytes_of,
            finish=piece.finish,
        )
        if piece.open:
            plan = sequence.plan
            item.open.stop.extend(plan.stop)
            item.open.prompt_tail.extend(sequence.prompt_tail)
            item.open.min_tokens = plan.min_tokens
            if plan.answer is not None:
                item.open.answer.functions.extend(plan.answer.functions)
                item.open.answer.single_call = plan.answer.single_call
            self._live[sequence.id] = sequence
        self._outbox.put(item)

    def close(self, sequence: Sequence) -> None:
        """Forget a sequence that may not have been answered in full."""
        if self._live.pop(sequence.id, None) is not None:
            self._outbox.put(tokenizer_pb2.DetokenizeItem(request_id=sequence.id, close=True))

    async def _serve(self, connected: Callable[[], None]) -> str:
        info = await self._stub.GetInfo(
            tokenizer_pb2.GetTokenizerInfoRequest(), timeout=CONNECT_TIMEOUT_S, wait_for_ready=True
        )
        self.facts = _facts(info)
        self._vocabulary = None
        call = self._stub.Detokenize()
        writer = asyncio.create_task(self._write(call, self._outbox))
        try:
            self.ready = True
            connected()
            self._listener.tokenizer_changed(self, [])
            while True:
                event = await call.read()
                if not isinstance(event, tokenizer_pb2.DetokenizeEvent):
                    return "the tokenizer ended the stream"
                self._on_event(event)
        finally:
            self.ready = False
            call.cancel()
            await cancel_and_wait(writer)
            self._lost()

    def _lost(self) -> None:
        orphans = list(self._live.values())
        self._live.clear()
        self._outbox = Outbox()
        for sequence in orphans:
            sequence.detach()
        self._listener.tokenizer_changed(self, orphans)

    @staticmethod
    async def _write(
        call: grpc.aio.StreamStreamCall[
            tokenizer_pb2.DetokenizeCommand, tokenizer_pb2.DetokenizeEvent
        ],
        outbox: Outbox[tokenizer_pb2.DetokenizeItem],
    ) -> None:
        while True:
            items = await outbox.take()
            try:
                for batch in _batches(items):
                    await call.write(tokenizer_pb2.DetokenizeCommand(items=batch))
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return  # the reader learns why

    def _on_event(self, event: tokenizer_pb2.DetokenizeEvent) -> None:
        for result in event.results:
            sequence = self._live.get(result.request_id)
            if sequence is None:
                continue  # it was closed while its answer was on the way
            if result.error:
                del self._live[result.request_id]
                sequence.fail(_refusal(result.error, result.request_id))
                continue
            if result.finished:
                del self._live[result.request_id]
            sequence.on_text(
                Text(
                    result.text,
                    result.stop_index if result.HasField("stop_index") else None,
                    result.consumed,
                    result.token_bytes,
                    result.reasoning,
                    tuple(
                        CallPiece(call.index, call.name, call.arguments_json, call.complete)
                        for call in result.calls
                    ),
                    result.answered,
                )
            )


def _batches(
    items: list[tokenizer_pb2.DetokenizeItem],
) -> Iterator[list[tokenizer_pb2.DetokenizeItem]]:
    """In order; one batch, unless many requests are replayed at once."""
    batch: list[tokenizer_pb2.DetokenizeItem] = []
    ids = 0
    for item in items:
        size = len(item.ids) + len(item.token_bytes_of)
        if batch and ids + size > _MAX_MESSAGE_IDS:
            yield batch
            batch, ids = [], 0
        batch.append(item)
        ids += size
    yield batch


def _refusal(
    code: tokenizer_pb2.DetokenizeError.ValueType, request_id: str
) -> errors.TpuserveError:
    if code == tokenizer_pb2.DETOKENIZE_ERROR_TOO_MANY:
        return errors.Overloaded("the tokenizer has as many open requests as it takes")
    _log.error(
        "the tokenizer refused",
        extra={"request_id": request_id, "code": tokenizer_pb2.DetokenizeError.Name(code)},
    )
    return errors.InternalError(f"the tokenizer refused tokens of request {request_id}")


def _timeout_s(deadline_s: float | None) -> float | None:
    return None if deadline_s is None else max(0.0, deadline_s - time.monotonic())


def _facts(info: tokenizer_pb2.TokenizerInfo) -> TokenizerFacts:
    said = info.defaults
    return TokenizerFacts(
        model=info.model,
        vocab_size=info.vocab_size,
        eos_ids=tuple(info.eos_ids),
        has_chat_template=info.has_chat_template,
        takes_images=info.takes_images,
        defaults=SamplingDefaults(
            do_sample=said.do_sample if said.HasField("do_sample") else None,
            temperature=said.temperature if said.HasField("temperature") else None,
            top_k=said.top_k if said.HasField("top_k") else None,
            top_p=said.top_p if said.HasField("top_p") else None,
            min_p=said.min_p if said.HasField("min_p") else None,
            repetition_penalty=said.repetition_penalty
            if said.HasField("repetition_penalty")
            else None,
        ),
    )


def _chat_input(prompt: ChatPrompt) -> tokenizer_pb2.ChatInput:
    return tokenizer_pb2.ChatInput(
        messages=[_message(message) for message in prompt.messages],
        tools=[
            chat_pb2.Tool(
                name=tool.name,
                description=tool.description,
                parameters_json=tool.parameters_json,
            )
            for tool in prompt.offered_tools
        ],
        add_generation_prompt=prompt.add_generation_prompt,
        thinking=prompt.thinking,
        tool_choice=_tool_choice(prompt.tool_choice),
        parallel_tool_calls=prompt.tool_choice.parallel,
    )


def _tool_choice(choice: ToolChoice) -> chat_pb2.ToolChoice | None:
    """None where nothing is forced: tools that must not be called are not shown."""
    if choice.function is not None:
        return chat_pb2.ToolChoice(function=choice.function)
    if choice.mode is ToolMode.REQUIRED:
        return chat_pb2.ToolChoice(mode=chat_pb2.ToolChoice.MODE_REQUIRED)
    return None


def _message(message: Message) -> chat_pb2.Message:
    return chat_pb2.Message(
        role=_ROLES[message.role],
        content=[
            chat_pb2.ContentPart(text=part)
            if isinstance(part, str)
            else chat_pb2.ContentPart(image=part)
            for part in message.parts
        ],
        tool_calls=[
            chat_pb2.ToolCall(id=call.id, name=call.name, arguments_json=call.arguments_json)
            for call in message.tool_calls
        ],
        tool_call_id=message.tool_call_id,
        name=message.name,
        reasoning=message.reasoning,
    )
