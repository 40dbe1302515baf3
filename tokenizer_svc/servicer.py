"""The Tokenizer service of the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
import grpc.aio

from tokenizer_svc import servicer_requests
from tokenizer_svc.detokenizer import UnknownId
from tokenizer_svc.loading import LoadedTokenizer
from tokenizer_svc.metrics import Metrics
from tokenizer_svc.pictures import PlacedPicture, check_pictures, place_pictures
from tokenizer_svc.servicer_detokenize import answer
from tokenizer_svc.session import DetokenizeSession
from tokenizer_svc.settings import Limits
from tokenizer_svc.vocabulary import vocabulary_of
from tpuserve.errors import FeatureMissing, InvalidArgument, Overloaded
from tpuserve.rpc.vocabulary import to_wire
from tpuserve.v1 import tokenizer_pb2 as pb
from tpuserve.v1 import tokenizer_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]
_T = TypeVar("_T")


class TokenizerServicer(tokenizer_pb2_grpc.TokenizerServicer):
    """`model` is the model directory's name. Call `close` after the server has stopped."""

    def __init__(
        self, loaded: LoadedTokenizer, *, model: str, limits: Limits, metrics: Metrics
    ) -> None:
        self._loaded = loaded
        self._model = model
        self._limits = limits
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(limits.encode_threads, thread_name_prefix="encode")
        self._pending = 0
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """Ends Detokenize streams as soon as no request is open on them."""
        self._draining.set()

    def close(self) -> None:
        """Waits for encodings that still run."""
        self._pool.shutdown(cancel_futures=True)

    async def Encode(self, request: pb.EncodeRequest, context: _Context) -> pb.EncodeReply:
        with self._metrics.call("Encode"):
            kind = request.WhichOneof("input")
            if kind is None:
                raise InvalidArgument("neither text nor chat is set", field="input")
            if kind == "chat":
                reply = await self._chat(request.chat)
            else:
                reply = pb.EncodeReply(ids=await self._text(request))
            self._metrics.encoded_tokens.inc(len(reply.ids))
            if request.want_tokens:
                reply.tokens.extend(map(self._loaded.tokenizer.token_bytes, reply.ids))
            return reply

    async def _text(self, request: pb.EncodeRequest) -> list[int]:
        text = request.text
        servicer_requests.check_text_size(len(text.encode()), self._limits.text_bytes, "text")
        add = request.add_special_tokens if request.HasField("add_special_tokens") else True
        tokenizer = self._loaded.tokenizer
        return await self._run(len(text), lambda: tokenizer.encode(text, add_special_tokens=add))

    async def _chat(self, request: pb.ChatInput) -> pb.EncodeReply:
        chat, rules = self._loaded.chat, self._loaded.images
        if chat is None:
            raise FeatureMissing("this model has no chat template")
        size_bytes = request.ByteSize()
        image_bytes = sum(len(part.image) for m in request.messages for part in m.content)
        servicer_requests.check_text_size(size_bytes - image_bytes, self._limits.text_bytes, "chat")
        conversation = servicer_requests.conversation(request)
        check_pictures(conversation, rules)

        def encode() -> tuple[list[int], list[PlacedPicture]]:
            ids = chat.encode(conversation)
            return ids, place_pictures(conversation, ids, rules)

        ids, pictures = await self._run(size_bytes, encode)
        tokenizer = self._loaded.tokenizer
        tail = ids[-self._limits.prompt_tail_ids :]
        output_format = servicer_requests.forced_format(
            request,
            conversation,
            self._loaded.answers,
            prompt_end=tokenizer.decode(tail, keep_special_tokens=True),
            control_ids=tokenizer.control_ids,
        )
        return pb.EncodeReply(
            ids=ids,
            output_format=output_format,
            images=[
                pb.PlacedImage(position=p.position, width=p.width, height=p.height, tiles=p.tiles)
                for p in pictures
            ],
        )

    async def Decode(self, request: pb.DecodeRequest, context: _Context) -> pb.DecodeReply:
        with self._metrics.call("Decode"):
            ids = list(request.ids)
            if len(ids) > self._limits.decode_ids:
                raise InvalidArgument(
                    f"ids has {len(ids)} ids, the limit is {self._limits.decode_ids}", field="ids"
                )
            keep = request.keep_special_tokens
            decode = self._loaded.tokenizer.decode
            try:
                text = await self._run(len(ids), lambda: decode(ids, keep_special_tokens=keep))
            except UnknownId as error:
                raise InvalidArgument(
                    f"ids holds {error.token_id}, which is not in the vocabulary of"
                    f" {self._loaded.tokenizer.vocab_size} tokens",
                    field="ids",
                ) from error
            self._metrics.decoded_tokens.inc(len(ids))
            return pb.DecodeReply(text=text)

    async def Detokenize(
        self, request_iterator: AsyncIterator[pb.DetokenizeCommand], context: _Context
    ) -> AsyncIterator[pb.DetokenizeEvent]:
        session = DetokenizeSession(
            self._loaded.tokenizer, self._limits, self._metrics, answers=self._loaded.answers
        )
        with self._metrics.counted("Detokenize") as outcome:
            try:
                while (command := await self._next(request_iterator, session)) is not None:
                    results = answer(
                        session,
                        command.items,
                        metrics=self._metrics,
                        max_ids=self._limits.message_ids,
                    )
                    if results:
                        yield pb.DetokenizeEvent(results=results)
                if len(session):
                    # A client that went away looks like the end of its messages at first.
                    outcome.code = grpc.StatusCode.CANCELLED
            finally:
                session.close()

    async def GetInfo(
        self, request: pb.GetTokenizerInfoRequest, context: _Context
    ) -> pb.TokenizerInfo:
        with self._metrics.call("GetInfo"):
            loaded = self._loaded
            defaults = loaded.defaults
            return pb.TokenizerInfo(
                kind=loaded.tokenizer.kind,
                vocab_size=loaded.tokenizer.vocab_size,
                eos_ids=loaded.eos_ids,
                bos_id=loaded.tokenizer.bos_id,
                has_chat_template=loaded.chat is not None,
                takes_images=loaded.images is not None,
                config_sha256=loaded.config_sha256,
                defaults=pb.SamplingDefaults(
                    do_sample=defaults.do_sample,
                    temperature=defaults.temperature,
                    top_k=defaults.top_k,
                    top_p=defaults.top_p,
                    min_p=defaults.min_p,
                    repetition_penalty=defaults.repetition_penalty,
                ),
                model=self._model,
                tool_parser=loaded.answers.tools,
                reasoning_parser=loaded.answers.reasoning,
            )

    async def GetVocabulary(
        self, request: pb.GetVocabularyRequest, context: _Context
    ) -> pb.GetVocabularyReply:
        with self._metrics.call("GetVocabulary"):
            loaded = self._loaded
            return await self._run(
                loaded.tokenizer.vocab_size,
                lambda: pb.GetVocabularyReply(vocabulary=to_wire(vocabulary_of(loaded))),
            )

    async def _run(self, size: int, work: Callable[[], _T]) -> _T:
        """Short work runs here; long work in a thread, where the tokenizers release the GIL."""
        if size <= self._limits.inline_size:
            return work()
        if self._pending >= self._limits.pending_encodings:
            raise Overloaded(f"{self._pending} long texts are waiting for the tokenizer already")
        self._pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._pending -= 1

    async def _next(
        self, commands: AsyncIterator[pb.DetokenizeCommand], session: DetokenizeSession
    ) -> pb.DetokenizeCommand | None:
        """The next message; None at the stream's end, or when it is idle during a drain."""
        if len(session):
            return await anext(commands, None)
        if self._draining.is_set():
            return None
        read = asyncio.ensure_future(_read(commands))
        drain = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait((read, drain), return_when=asyncio.FIRST_COMPLETED)
            return read.result() if read.done() else None
        finally:
            read.cancel()
            drain.cancel()
            await asyncio.gather(read, drain, return_exceptions=True)


async def _read(commands: AsyncIterator[pb.DetokenizeCommand]) -> pb.DetokenizeCommand | None:
    return await anext(commands, None)
