"""A tokenizer and a device whose every output a person can compute, behind real gRPC servers.

Token ids 0 to 255 are bytes and 256 ends an answer. A conversation is encoded as `<role>text` for
each message and a last `<assistant>`. The device answers with its prompt in upper case, then the
seed in decimal when it samples (temperature above 0), then 256. A prompt that starts with "long"
is answered with the digits 0 to 9 over and over until max_tokens; "bytes" with € cut into steps.
With an output format the end is told with the token before 256.
"""

from __future__ import annotations

import asyncio
import codecs
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import grpc.aio

from tpuserve.rpc.server import Server
from tpuserve.v1 import (
    chat_pb2,
    device_pb2,
    device_pb2_grpc,
    dump_pb2,
    generation_pb2,
    output_pb2,
    tokenizer_pb2,
    tokenizer_pb2_grpc,
)

EOS = 256
VOCAB = 257

Context = grpc.aio.ServicerContext[Any, Any]


async def eventually(predicate: Callable[[], object], *, within_s: float = 10.0) -> None:
    """Wait until it is true; fail loudly when it is not in time."""
    until_s = time.monotonic() + within_s
    while not predicate():
        assert time.monotonic() < until_s, "it did not become true in time"
        await asyncio.sleep(0.002)


class Peer:
    """A server that can be lost and brought back on the same port."""

    service = ""

    def __init__(self) -> None:
        self.port = 0
        self._server: Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def register(self, server: Server) -> None:
        raise NotImplementedError

    async def start(self) -> None:
        server = Server([self.service])
        self.register(server)
        self.port = await server.start(f"127.0.0.1:{self.port}")
        await server.set_serving(True)
        self._server = server

    async def set_serving(self, serving: bool) -> None:
        assert self._server is not None
        await self._server.set_serving(serving)

    async def kill(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await server.grpc_server.stop(None)


class _Text:
    """Incremental text of one request, with stop texts."""

    def __init__(self, opening: tokenizer_pb2.DetokenizeOpen) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = list(opening.stop)
        self._held = ""

    def push(self, ids: list[int], *, finish: bool) -> tuple[str, int | None, int]:
        text = ""
        for consumed, token_id in enumerate(ids, start=1):
            assert token_id < VOCAB, token_id
            if token_id != EOS:
                self._held += self._decoder.decode(bytes([token_id]))
            hits = [(self._held.find(s), i) for i, s in enumerate(self._stops) if s in self._held]
            if hits:
                at, index = min(hits)
                return text + self._held[:at], index, consumed
            keep = max((n for s in self._stops for n in range(len(s))
                        if self._held.endswith(s[:n])), default=0)  # fmt: skip
            cut = len(self._held) - keep
            text, self._held = text + self._held[:cut], self._held[cut:]
        if finish:
            text += self._held + self._decoder.decode(b"", final=True)
        return text, None, len(ids)


class FakeTokenizer(Peer, tokenizer_pb2_grpc.TokenizerServicer):
    service = "tpuserve.v1.Tokenizer"

    def __init__(self, *, model: str = "fake", vocab_size: int = VOCAB) -> None:
        super().__init__()
        self.info = tokenizer_pb2.TokenizerInfo(
            kind="bytes",
            vocab_size=vocab_size,
            eos_ids=[EOS],
            has_chat_template=True,
            model=model,
        )
        self.info.defaults.do_sample = False
        self.commands: list[tokenizer_pb2.DetokenizeCommand] = []
        self.encodes = 0
        # What every conversation demands of its answer.
        self.demanded: output_pb2.OutputFormat | None = None
        self.vocabularies_asked = 0
        self.chats: list[tokenizer_pb2.ChatInput] = []
        self.open_requests = 0

    def register(self, server: Server) -> None:
        tokenizer_pb2_grpc.add_TokenizerServicer_to_server(self, server.grpc_server)

    async def GetInfo(
        self, request: tokenizer_pb2.GetTokenizerInfoRequest, context: Context
    ) -> tokenizer_pb2.TokenizerInfo:
        return self.info

    async def Encode(
        self, request: tokenizer_pb2.EncodeRequest, context: Context
    ) -> tokenizer_pb2.EncodeReply:
        self.encodes += 1
        text = request.text
        if request.HasField("chat"):
            self.chats.append(request.chat)
            names = {v: k.removeprefix("ROLE_").lower() for k, v in chat_pb2.Role.items()}
            text = "".join(
                f"<{names[m.role]}>" + "".join(part.text for part in m.content)
                for m in request.chat.messages
            )
            text += "<assistant>"
        ids = list(text.encode())
        tokens = [bytes([i]) for i in ids] if request.want_tokens else []
        return tokenizer_pb2.EncodeReply(ids=ids, tokens=tokens, output_format=self.demanded)

    async def Decode(
        self, request: tokenizer_pb2.DecodeRequest, context: Context
    ) -> tokenizer_pb2.DecodeReply:
        text = bytes(i for i in request.ids if i != EOS).decode(errors="replace")
        return tokenizer_pb2.DecodeReply(text=text)

    async def GetVocabulary(
        self, request: tokenizer_pb2.GetVocabularyRequest, context: Context
    ) -> tokenizer_pb2.GetVocabularyReply:
        """Each byte and the end; the sum is for the test to compare."""
        self.vocabularies_asked += 1
        vocabulary = output_pb2.Vocabulary(
            sha256="cd" * 32,
            token_bytes=bytes(range(256)) + b"<end>",
            lengths=[*[1] * 256, 5],
            special_ids=[EOS],
            eos_ids=[EOS],
        )
        return tokenizer_pb2.GetVocabularyReply(vocabulary=vocabulary)

    async def Detokenize(
        self,
        request_iterator: AsyncIterator[tokenizer_pb2.DetokenizeCommand],
        context: Context,
    ) -> AsyncIterator[tokenizer_pb2.DetokenizeEvent]:
        texts: dict[str, _Text] = {}
        async for command in request_iterator:
            self.commands.append(command)
            results = []
            for item in command.items:
                if item.close:
                    texts.pop(item.request_id, None)
                    continue
                if item.HasField("open"):
                    assert item.request_id not in texts
                    texts[item.request_id] = _Text(item.open)
                results.append(self._answer(item, texts))
            self.open_requests = len(texts)
            if results:
                yield tokenizer_pb2.DetokenizeEvent(results=results)

    @staticmethod
    def _answer(
        item: tokenizer_pb2.DetokenizeItem, texts: dict[str, _Text]
    ) -> tokenizer_pb2.DetokenizeResult:
        state = texts.get(item.request_id)
        if state is None:
            return tokenizer_pb2.DetokenizeResult(
                request_id=item.request_id,
                finished=True,
                error=tokenizer_pb2.DETOKENIZE_ERROR_NOT_OPEN,
            )
        text, stop_index, consumed = state.push(list(item.ids), finish=item.finish)
        finished = item.finish or stop_index is not None
        if finished:
            del texts[item.request_id]
        return tokenizer_pb2.DetokenizeResult(
            request_id=item.request_id,
            text=text,
            stop_index=stop_index,
            consumed=consumed,
            finished=finished,
            token_bytes=[bytes([i]) if i < EOS else b"" for i in item.token_bytes_of],
        )


class _Digits(Sequence[int]):
    """0 to 9 for ever, without a list of that length."""

    def __len__(self) -> int:
        return 2**31

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> list[int]: ...
    def __getitem__(self, at: int | slice) -> int | list[int]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        return ord("0") + at % 10


def answer_ids(submit: device_pb2.Submit) -> Sequence[int]:
    """All completion tokens that the device would give, without limits."""
    prompt = bytes(i for i in submit.prompt_ids if i < EOS)
    if prompt.startswith(b"long"):
        return _Digits()
    if prompt.startswith(b"bytes"):
        return [*"€".encode(), *"é".encode(), EOS]
    if prompt.startswith(b"padded"):
        return [*b"ab", VOCAB + 1, *b"c", EOS]
    seed = str(submit.sampling.seed).encode() if submit.sampling.temperature > 0 else b""
    return [*prompt.upper(), *seed, EOS]


@dataclass
class _Running:
    submit: device_pb2.Submit
    ids: Sequence[int]
    at: int
    reply: asyncio.Queue[device_pb2.Event]


@dataclass
class _Gate:
    """Steps that may run; None is any number."""

    left: int | None = None
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def enter(self) -> None:
        while self.left == 0:
            self.opened.clear()
            await self.opened.wait()
        if self.left is not None:
            self.left -= 1

    def allow(self, steps: int | None) -> None:
        self.left = None if steps is None else (self.left or 0) + steps
        self.opened.set()


class FakeDevice(Peer, device_pb2_grpc.DeviceServicer):
    """One step gives each running request one token; `hold` and `allow` let a test count steps."""

    service = "tpuserve.v1.Device"

    def __init__(
        self,
        *,
        name: str = "dev-0",
        model: str = "fake",
        sha256: str = "ab" * 32,
        slots: int = 4,
        context_length: int = 256,
        vocab_size: int = 512,
        features: tuple[str, ...] = ("logits",),
    ) -> None:
        super().__init__()
        self.info = device_pb2.DeviceInfo(
            name=name,
            model=device_pb2.ModelIdentity(name=model, bmodel_sha256=sha256),
            context_length=context_length,
            max_prompt_length=context_length - 1,
            vocab_size=vocab_size,
            slots=slots,
            features=features,
        )
        self.submits: list[device_pb2.Submit] = []
        self.cancels: list[str] = []
        self.vocabularies: list[output_pb2.Vocabulary] = []
        # What every request is answered with, instead of `answer_ids`.
        self.script: Sequence[int] | None = None
        self.reject: device_pb2.RejectCode.ValueType | None = None
        self.running: dict[str, _Running] = {}
        self.waiting: list[_Running] = []
        self.steps = 0
        self._gate = _Gate()
        self._work = asyncio.Event()

    def register(self, server: Server) -> None:
        device_pb2_grpc.add_DeviceServicer_to_server(self, server.grpc_server)

    def hold(self) -> None:
        self._gate.left = 0

    def allow(self, steps: int | None) -> None:
        self._gate.allow(steps)

    async def GetInfo(
        self, request: device_pb2.GetDeviceInfoRequest, context: Context
    ) -> device_pb2.DeviceInfo:
        return self.info

    async def GetLoad(
        self, request: device_pb2.GetLoadRequest, context: Context
    ) -> device_pb2.Load:
        return self._load()

    async def DumpTensors(
        self, request: dump_pb2.DumpTensorsRequest, context: Context
    ) -> AsyncIterator[dump_pb2.DumpTensorsReply]:
        yield dump_pb2.DumpTensorsReply()

    async def SwapModel(
        self, request: device_pb2.SwapModelRequest, context: Context
    ) -> device_pb2.SwapModelReply:
        return device_pb2.SwapModelReply()

    async def PutVocabulary(
        self, request: device_pb2.PutVocabularyRequest, context: Context
    ) -> device_pb2.PutVocabularyReply:
        self.vocabularies.append(request.vocabulary)
        self.info.vocabulary_sha256 = request.vocabulary.sha256
        return device_pb2.PutVocabularyReply()

    def _load(self) -> device_pb2.Load:
        return device_pb2.Load(
            running=len(self.running),
            waiting=len(self.waiting),
            kv_tokens=10 * len(self.running),
            kv_capacity_tokens=100,
        )

    async def Session(
        self, request_iterator: AsyncIterator[device_pb2.Command], context: Context
    ) -> AsyncIterator[device_pb2.Event]:
        events: asyncio.Queue[device_pb2.Event] = asyncio.Queue()
        reader = asyncio.create_task(self._read(request_iterator, events))
        stepper = asyncio.create_task(self._run())
        try:
            while True:
                yield await events.get()
        finally:
            for task in (reader, stepper):
                task.cancel()
            await asyncio.gather(reader, stepper, return_exceptions=True)
            self.running.clear()
            self.waiting.clear()

    async def _read(
        self,
        commands: AsyncIterator[device_pb2.Command],
        events: asyncio.Queue[device_pb2.Event],
    ) -> None:
        async for command in commands:
            for submit in command.submits:
                self.submits.append(submit)
                if self.reject is not None:
                    rejected = device_pb2.Rejected(
                        request_id=submit.request_id, code=self.reject, detail="as the test said"
                    )
                    events.put_nowait(device_pb2.Event(rejected=rejected))
                    continue
                ids = answer_ids(submit) if self.script is None else self.script
                assert list(submit.resume_ids) == ids[: len(submit.resume_ids)]
                self.waiting.append(_Running(submit, ids, len(submit.resume_ids), events))
            for cancel in command.cancels:
                self.cancels.append(cancel.request_id)
                self.running.pop(cancel.request_id, None)
                self.waiting = [w for w in self.waiting if w.submit.request_id != cancel.request_id]
            self._fill()
            self._work.set()

    def _fill(self) -> None:
        while self.waiting and len(self.running) < self.info.slots:
            request = self.waiting.pop(0)
            self.running[request.submit.request_id] = request
            accepted = device_pb2.Accepted(request_id=request.submit.request_id, cached_tokens=1)
            request.reply.put_nowait(device_pb2.Event(accepted=accepted))

    async def _run(self) -> None:
        while True:
            while not self.running:
                self._work.clear()
                await self._work.wait()
            await self._gate.enter()
            self._step()
            await asyncio.sleep(0)

    def _step(self) -> None:
        self.steps += 1
        frames: dict[int, tuple[asyncio.Queue[device_pb2.Event], device_pb2.Frame]] = {}
        for request in list(self.running.values()):
            _, frame = frames.setdefault(
                id(request.reply), (request.reply, device_pb2.Frame(step=self.steps))
            )
            self._emit(request, frame)
        self._fill()
        for reply, frame in frames.values():
            frame.load.CopyFrom(self._load())
            reply.put_nowait(device_pb2.Event(frame=frame))

    def _emit(self, request: _Running, frame: device_pb2.Frame) -> None:
        submit = request.submit
        token_id = request.ids[request.at]
        request.at += 1
        emission = frame.emissions.add(request_id=submit.request_id, ids=[token_id])
        if submit.HasField("logprobs"):
            emission.logprobs.add(
                token_id=token_id,
                logprob=-0.5,
                top=[
                    generation_pb2.TokenLogprob.Candidate(token_id=token_id + n, logprob=-1.0 - n)
                    for n in range(submit.logprobs)
                ],
            )
        whole = submit.HasField("output_format") and request.ids[request.at] == EOS
        if token_id in submit.stop_ids or whole:
            emission.finish = generation_pb2.FINISH_REASON_STOP
        elif request.at == submit.max_tokens:
            emission.finish = generation_pb2.FINISH_REASON_LENGTH
        if emission.finish:
            del self.running[submit.request_id]
