"""`tpuserve.v1.Generation`. Errors are raised; the server's interceptor makes statuses of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Final

import grpc.aio

from gateway.collect import collect
from gateway.grpc_front import convert
from gateway.models import Model
from gateway.request import GenerationRequest
from gateway.service import GenerationService
from tpuserve.errors import TpuserveError
from tpuserve.v1 import generation_pb2, generation_pb2_grpc

SERVICE_NAME: Final = "tpuserve.v1.Generation"

_Context = grpc.aio.ServicerContext[Any, Any]


class GenerationServicer(generation_pb2_grpc.GenerationServicer):
    def __init__(self, service: GenerationService) -> None:
        self._service = service

    # The streaming methods write on the context: a generator would add two layers to every chunk.

    async def Chat(  # type: ignore[override]
        self, request: generation_pb2.ChatRequest, context: _Context
    ) -> None:
        await self._stream(convert.chat_request, request, context)

    async def ChatOnce(
        self, request: generation_pb2.ChatRequest, context: _Context
    ) -> generation_pb2.GenerateReply:
        return await self._once(self._convert(convert.chat_request, request, context))

    async def Generate(  # type: ignore[override]
        self, request: generation_pb2.GenerateRequest, context: _Context
    ) -> None:
        await self._stream(convert.generate_request, request, context)

    async def GenerateOnce(
        self, request: generation_pb2.GenerateRequest, context: _Context
    ) -> generation_pb2.GenerateReply:
        return await self._once(self._convert(convert.generate_request, request, context))

    async def Tokenize(
        self, request: generation_pb2.TokenizeRequest, context: _Context
    ) -> generation_pb2.TokenizeReply:
        with self._refusals_counted():
            convert.check_known(request)
            prompt = convert.tokenize_prompt(request)
        ids, tokens, context_length = await self._service.tokenize(
            request.model, prompt, deadline_s=convert.deadline_s(context.time_remaining())
        )
        return generation_pb2.TokenizeReply(ids=ids, tokens=tokens, context_length=context_length)

    async def Detokenize(
        self, request: generation_pb2.DetokenizeRequest, context: _Context
    ) -> generation_pb2.DetokenizeReply:
        with self._refusals_counted():
            convert.check_known(request)
        text = await self._service.detokenize(
            request.model,
            tuple(request.ids),
            keep_special_tokens=request.keep_special_tokens,
            deadline_s=convert.deadline_s(context.time_remaining()),
        )
        return generation_pb2.DetokenizeReply(text=text)

    async def ListModels(
        self, request: generation_pb2.ListModelsRequest, context: _Context
    ) -> generation_pb2.ListModelsReply:
        convert.check_known(request)
        models = sorted(self._service.registry, key=lambda model: model.name)
        return generation_pb2.ListModelsReply(models=map(_model, models))

    async def GetModel(
        self, request: generation_pb2.GetModelRequest, context: _Context
    ) -> generation_pb2.Model:
        convert.check_known(request)
        return _model(self._service.registry.resolve(request.name))

    def _convert(
        self,
        make: Callable[..., GenerationRequest],
        request: generation_pb2.ChatRequest | generation_pb2.GenerateRequest,
        context: _Context,
    ) -> GenerationRequest:
        with self._refusals_counted():
            return make(request, time_remaining_s=context.time_remaining())

    @contextmanager
    def _refusals_counted(self) -> Iterator[None]:
        try:
            yield
        except TpuserveError as error:
            self._service.count_refusal(error)
            raise

    async def _stream(
        self,
        make: Callable[..., GenerationRequest],
        message: generation_pb2.ChatRequest | generation_pb2.GenerateRequest,
        context: _Context,
    ) -> None:
        request = self._convert(make, message, context)
        async with aclosing(self._service.generate(request)) as events:
            async for event in events:
                await context.write(convert.chunk(event))

    async def _once(self, request: GenerationRequest) -> generation_pb2.GenerateReply:
        answer = await collect(self._service.generate(request))
        return generation_pb2.GenerateReply(
            request_id=answer.started.request_id,
            model=answer.started.model,
            seed=answer.started.seed,
            device=answer.started.device,
            completions=map(convert.completion, answer.completions),
            usage=convert.usage(answer.usage),
        )


def _model(model: Model) -> generation_pb2.Model:
    facts = model.facts
    devices = model.dispatcher.devices
    reply = generation_pb2.Model(
        name=model.name,
        devices=len(devices),
        healthy_devices=sum(device.ready for device in devices),
        created_s=model.created_s,
    )
    if facts is not None:
        reply.bmodel_sha256 = facts.bmodel_sha256
        reply.context_length = facts.context_length
        reply.max_prompt_length = facts.max_prompt_length
        reply.vocab_size = facts.vocab_size
        reply.max_images = facts.max_images
        reply.features.extend(sorted(facts.features))
    return reply
