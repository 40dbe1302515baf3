"""A gateway without models: what it answers is in the question.

`words N` streams N words, `hang` one word and then nothing until the client goes away, `call NAME`
a thought and a call of that function, and the name of a status code fails with it. The system
message, if any, is echoed first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from tpuserve.v1 import chat_pb2, generation_pb2, generation_pb2_grpc

_PROMPT_TOKENS = 7


@dataclass
class FakeGateway(generation_pb2_grpc.GenerationServicer):
    """`cancelled` is set when a hanging request ended; `chats` holds every chat request."""

    address: str = ""
    cancelled: threading.Event = field(default_factory=threading.Event)
    chats: list[generation_pb2.ChatRequest] = field(default_factory=list)
    generates: list[generation_pb2.GenerateRequest] = field(default_factory=list)

    def Chat(self, request: generation_pb2.ChatRequest, context: Any) -> Iterator[Any]:
        self.chats.append(request)
        words = [part.text for m in request.messages for part in m.content if m.role == 1]
        yield from self._stream(request.messages[-1].content[0].text, words, context)

    def Generate(self, request: generation_pb2.GenerateRequest, context: Any) -> Iterator[Any]:
        self.generates.append(request)
        yield from self._stream(request.text or "words 1", [], context)

    def ChatOnce(self, request: generation_pb2.ChatRequest, context: Any) -> Any:
        self.chats.append(request)
        return self._whole(request.messages[-1].content[0].text, context)

    def GenerateOnce(self, request: generation_pb2.GenerateRequest, context: Any) -> Any:
        self.generates.append(request)
        return self._whole(request.text or "words 1", context)

    def Tokenize(self, request: generation_pb2.TokenizeRequest, context: Any) -> Any:
        text = request.text or request.chat.messages[0].content[0].text
        data = text.encode()
        return generation_pb2.TokenizeReply(
            ids=list(data), tokens=[bytes([byte]) for byte in data], context_length=512
        )

    def Detokenize(self, request: generation_pb2.DetokenizeRequest, context: Any) -> Any:
        return generation_pb2.DetokenizeReply(text=bytes(request.ids).decode())

    def ListModels(self, request: generation_pb2.ListModelsRequest, context: Any) -> Any:
        model = generation_pb2.Model(name="fake", context_length=512, features=["history"])
        return generation_pb2.ListModelsReply(models=[model])

    def GetModel(self, request: generation_pb2.GetModelRequest, context: Any) -> Any:
        return generation_pb2.Model(name=request.name)

    def _stream(self, text: str, words: list[str], context: Any) -> Iterator[Any]:
        _fail_if_asked(text, context)
        if text == "hang" and not context.add_callback(self.cancelled.set):
            self.cancelled.set()  # the client has gone already
        yield generation_pb2.GenerateChunk(
            started=generation_pb2.Started(
                request_id="r1", model="fake", prompt_tokens=_PROMPT_TOKENS, seed=3, device="d0"
            )
        )
        if text.startswith("call "):
            yield from _call(text.split()[1])
            return
        count = 1 if text == "hang" else int(text.split()[1])
        for index, word in enumerate([*words, *(f"w{number} " for number in range(count))]):
            yield generation_pb2.GenerateChunk(
                delta=generation_pb2.Delta(text=word, token_ids=[index])
            )
        if text == "hang":
            self.cancelled.wait(20)
            return
        yield generation_pb2.GenerateChunk(finished=_finished(count))

    def _whole(self, text: str, context: Any) -> Any:
        _fail_if_asked(text, context)
        if text.startswith("call "):
            call = chat_pb2.ToolCall(id="call_0", name=text.split()[1], arguments_json='{"x": 1}')
            made = generation_pb2.Completion(
                reasoning="Hm.",
                tool_calls=[call],
                reason=generation_pb2.FINISH_REASON_TOOL_CALLS,
            )
            return generation_pb2.GenerateReply(request_id="r3", completions=[made])
        count = int(text.split()[1])
        completion = generation_pb2.Completion(
            text="".join(f"w{number} " for number in range(count)),
            token_ids=range(count),
            reason=generation_pb2.FINISH_REASON_STOP_SEQUENCE,
            stop="END",
        )
        return generation_pb2.GenerateReply(
            request_id="r2",
            model="fake",
            seed=9,
            completions=[completion],
            usage=generation_pb2.Usage(prompt_tokens=_PROMPT_TOKENS, completion_tokens=count),
        )


def _call(name: str) -> Iterator[Any]:
    pieces = [
        chat_pb2.ToolCallDelta(index=0, id="call_0", name=name),
        chat_pb2.ToolCallDelta(index=0, arguments_json='{"x": '),
        chat_pb2.ToolCallDelta(index=0, arguments_json="1}"),
    ]
    yield generation_pb2.GenerateChunk(delta=generation_pb2.Delta(reasoning="Hm."))
    for piece in pieces:
        yield generation_pb2.GenerateChunk(delta=generation_pb2.Delta(tool_calls=[piece]))
    finished = generation_pb2.Finished(reason=generation_pb2.FINISH_REASON_TOOL_CALLS)
    yield generation_pb2.GenerateChunk(finished=finished)


def _finished(count: int) -> generation_pb2.Finished:
    return generation_pb2.Finished(
        reason=generation_pb2.FINISH_REASON_LENGTH,
        usage=generation_pb2.Usage(prompt_tokens=_PROMPT_TOKENS, completion_tokens=count),
        timings=generation_pb2.Timings(ttft_us=1500),
    )


def _fail_if_asked(text: str, context: Any) -> None:
    code = grpc.StatusCode.__members__.get(text)
    if code is not None:
        context.set_trailing_metadata((("grpc-retry-pushback-ms", "2500"),))
        context.abort(code, f"this is {text}")


@contextmanager
def serving() -> Iterator[FakeGateway]:
    """On a free port of the loopback interface."""
    gateway = FakeGateway()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    generation_pb2_grpc.add_GenerationServicer_to_server(gateway, server)
    gateway.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield gateway
    finally:
        gateway.cancelled.set()
        server.stop(0).wait()
