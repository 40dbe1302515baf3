"""Routes and the server that serves them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from gateway.collect import collect
from gateway.device_session import DeviceSession
from gateway.http_front import body, convert, replies
from gateway.http_front.errors import as_typed, error_reply
from gateway.http_front.images import ImageFetcher
from gateway.http_front.openai_types import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    LegacyBody,
    TokenizeBody,
)
from gateway.http_front.streaming import stream_cumulative, stream_openai
from gateway.models import Model
from gateway.request import GenerationRequest, IdsPrompt, TextPrompt
from gateway.service import GenerationService
from tpuserve.errors import InvalidArgument, TpuserveError, UnknownModel

_log = logging.getLogger(__name__)

_STOP_TIMEOUT_S: Final = 1.0

Readiness = Callable[[], tuple[bool, dict[str, object]]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpFront:
    """`readiness` answers /ready; `registry` is what /metrics shows; images are fetched from
    `image_hosts` and from nowhere else."""

    def __init__(
        self,
        service: GenerationService,
        *,
        readiness: Readiness,
        devices: list[DeviceSession],
        registry: CollectorRegistry,
        max_body_bytes: int,
        image_hosts: Iterable[str],
    ) -> None:
        self._service = service
        self._readiness = readiness
        self._devices = devices
        self._registry = registry
        self._max_body_bytes = max_body_bytes
        self._images = ImageFetcher(image_hosts)
        app = web.Application(client_max_size=max_body_bytes, middlewares=[self._errors])
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/completions", self._completions),
                web.get("/v1/models", self._list_models),
                web.get("/v1/models/{name:.+}", self._get_model),
                web.post("/tokenize", self._tokenize),
                web.post("/detokenize", self._detokenize),
                web.post("/chat/completions", self._legacy_chat),
                web.get("/health", self._health),
                web.get("/ready", self._ready),
                web.get("/metrics", self._metrics),
            ]
        )
        # A handler whose client is gone is cancelled, which cancels its request on the device.
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=_STOP_TIMEOUT_S
        )

    async def start(self, address: str) -> int:
        """Listen on `host:port`; returns the port. Raises OSError naming the address."""
        host, _, port = address.rpartition(":")
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host.strip("[]"), int(port)).start()
        except OSError as error:
            raise OSError(f"cannot listen on {address}: {error.strerror or error}") from error
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        await self._runner.cleanup()

    @web.middleware
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            # No such route or method: in the form of all other errors.
            kind = UnknownModel if error.status == 404 else InvalidArgument
            typed = kind(f"{request.method} {request.path}: {error.reason}")
            reply = error_reply(typed, status=error.status)
            if "Allow" in error.headers:
                reply.headers["Allow"] = error.headers["Allow"]
            return reply
        except ConnectionError:
            raise
        except Exception as error:
            return error_reply(as_typed(error))

    async def _read(self, request: web.Request, kind: type[body.T]) -> body.T:
        return await body.read(request, kind, max_bytes=self._max_body_bytes)

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        try:
            said = await self._read(http, ChatBody)
            fetched = await self._images.inline(said.messages)
            request = convert.chat(said, deadline_s=body.deadline_s(http), fetched=fetched)
        except TpuserveError as error:
            self._service.count_refusal(error)
            raise
        events = self._service.generate(request)
        if said.stream:
            usage = bool(said.stream_options and said.stream_options.include_usage)
            return await stream_openai(
                http,
                events,
                chunks=lambda started: replies.ChatChunks(request, started, include_usage=usage),
                include_usage=usage,
            )
        answer = await collect(events)
        reply = replies.chat_reply(answer, with_logprobs=request.top_logprobs is not None)
        return _json(reply, request_id=request.id)

    async def _completions(self, http: web.Request) -> web.StreamResponse:
        try:
            said = await self._read(http, CompletionBody)
            request = convert.completion(said, deadline_s=body.deadline_s(http))
        except TpuserveError as error:
            self._service.count_refusal(error)
            raise
        echoes = await self._echoes(request) if said.echo else []
        events = self._service.generate(request)
        if said.stream:
            usage = bool(said.stream_options and said.stream_options.include_usage)
            return await stream_openai(
                http,
                events,
                chunks=lambda started: replies.CompletionChunks(
                    request, started, include_usage=usage, echoes=echoes
                ),
                include_usage=usage,
            )
        answer = await collect(events)
        reply = replies.completion_reply(
            answer, with_logprobs=request.top_logprobs is not None, echoes=echoes
        )
        return _json(reply, request_id=request.id)

    async def _echoes(self, request: GenerationRequest) -> list[str]:
        """The prompt's text for each index."""
        texts = []
        for prompt in request.prompts:
            if isinstance(prompt, TextPrompt):
                text = prompt.text
            else:
                assert isinstance(prompt, IdsPrompt)
                text = await self._service.detokenize(
                    request.model,
                    prompt.ids,
                    keep_special_tokens=True,
                    deadline_s=request.deadline_s,
                )
            texts += [text] * request.n
        return texts

    async def _legacy_chat(self, http: web.Request) -> web.StreamResponse:
        try:
            said = await self._read(http, LegacyBody)
            request = convert.legacy(said, deadline_s=body.deadline_s(http))
        except TpuserveError as error:
            self._service.count_refusal(error)
            raise
        events = self._service.generate(request)
        if said.stream:
            return await stream_cumulative(http, events)
        answer = await collect(events)
        reply = msgspec.json.encode({"data": answer.completions[0].text})
        return _json(reply, request_id=request.id)

    async def _tokenize(self, http: web.Request) -> web.StreamResponse:
        said = await self._read(http, TokenizeBody)
        ids, tokens, context_length = await self._service.tokenize(
            said.model,
            convert.tokenize(said, fetched=await self._images.inline(said.messages or [])),
            deadline_s=body.deadline_s(http),
            want_tokens=bool(said.return_token_strs),
        )
        reply = {
            "count": len(ids),
            "max_model_len": context_length,
            "tokens": ids,
            "token_strs": [t.decode(errors="replace") for t in tokens]
            if said.return_token_strs
            else None,
        }
        return _json(msgspec.json.encode(reply))

    async def _detokenize(self, http: web.Request) -> web.StreamResponse:
        said = await self._read(http, DetokenizeBody)
        text = await self._service.detokenize(
            said.model,
            tuple(said.tokens),
            keep_special_tokens=True,
            deadline_s=body.deadline_s(http),
        )
        return _json(msgspec.json.encode({"prompt": text}))

    async def _list_models(self, _: web.Request) -> web.StreamResponse:
        models = sorted(self._service.registry, key=lambda model: model.name)
        reply = {"object": "list", "data": [_model(model) for model in models]}
        return _json(msgspec.json.encode(reply))

    async def _get_model(self, http: web.Request) -> web.StreamResponse:
        model = self._service.registry.resolve(http.match_info["name"])
        return _json(msgspec.json.encode(_model(model)))

    async def _health(self, _: web.Request) -> web.StreamResponse:
        return _json(b'{"status":"alive"}')

    async def _ready(self, _: web.Request) -> web.StreamResponse:
        ready, state = self._readiness()
        return _json(msgspec.json.encode(state), status=200 if ready else 503)

    async def _metrics(self, _: web.Request) -> web.StreamResponse:
        await asyncio.gather(*(device.refresh_load() for device in self._devices))
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )


def _json(reply: bytes, *, status: int = 200, request_id: str | None = None) -> web.Response:
    headers = {} if request_id is None else {"X-Request-Id": request_id}
    return web.Response(body=reply, status=status, content_type="application/json", headers=headers)


def _model(model: Model) -> dict[str, object]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created_s,
        "owned_by": "tpuserve",
        "max_model_len": model.facts.context_length if model.facts is not None else None,
    }
