"""The Device service of `tpuserve.v1`: wire messages in, plain requests to the sessions, back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from device_svc import dump, validation, wire
from device_svc.engine_api import Engine, ModelShape, Sampling
from device_svc.formats import Formats
from device_svc.image_reader import ImageReader
from device_svc.request import Refused, RejectReason, Request
from device_svc.sessions import (
    RejectedEvent,
    Sessions,
    SessionState,
)
from device_svc.swapper import ModelSwapper, SwapRequest
from tpuserve.errors import FeatureMissing, InvalidArgument, PermissionDenied, Unavailable
from tpuserve.images.rules import ImageRules
from tpuserve.output_format import OutputFormat
from tpuserve.rpc import status
from tpuserve.rpc.output_format import from_wire as output_format_from_wire
from tpuserve.rpc.vocabulary import from_wire as vocabulary_from_wire
from tpuserve.v1 import device_pb2, device_pb2_grpc, dump_pb2, generation_pb2

SERVICE_NAME: Final = "tpuserve.v1.Device"


Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Identity:
    """What the device knows of itself beside its engine.

    runtime_kind: as `tpuserve.runtime_library`. images: None for a model that reads text only.
    """

    name: str
    model_name: str
    bmodel_sha256: str
    chips: tuple[int, ...]
    runtime_kind: str
    images: ImageRules | None = None


@dataclass(frozen=True, slots=True)
class Serving:
    """What exists once the engine is open. reuses_prefixes: whether rows of prompts are kept.
    swapper: None where the model stays.
    """

    engine: Engine
    sessions: Sessions
    formats: Formats
    images: ImageReader
    max_waiting: int
    reuses_prefixes: bool = False
    allows_dumps: bool = False
    swapper: ModelSwapper | None = None

    @property
    def features(self) -> list[str]:
        """Of the bmodel and of the service, sorted."""
        extra = {"prefix-cache"} if self.reuses_prefixes else set[str]()
        return sorted({*self.engine.shape.features, *extra})


class DeviceServicer(device_pb2_grpc.DeviceServicer):
    """UNAVAILABLE until `serve` is called."""

    def __init__(self, identity: Identity, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._identity = identity
        self._clock = clock
        self._state: Serving | None = None

    def serve(self, serving: Serving, identity: Identity | None = None) -> None:
        """`identity`: when it is another one from now on."""
        self._state = serving
        self._identity = identity or self._identity

    @property
    def _serving(self) -> Serving:
        if self._state is None:
            raise Unavailable("the device is loading its model")
        return self._state

    async def GetInfo(
        self, request: device_pb2.GetDeviceInfoRequest, context: Context
    ) -> device_pb2.DeviceInfo:
        serving, identity = self._serving, self._identity
        engine, shape = serving.engine, serving.engine.shape
        return device_pb2.DeviceInfo(
            name=identity.name,
            model=device_pb2.ModelIdentity(
                name=identity.model_name, bmodel_sha256=identity.bmodel_sha256
            ),
            context_length=shape.context_length,
            max_prompt_length=shape.max_prompt_length,
            prefill_chunk_tokens=shape.prefill_chunk_tokens,
            vocab_size=shape.vocab_size,
            slots=engine.slots,
            max_waiting=serving.max_waiting,
            features=serving.features,
            chips=identity.chips,
            runtime=device_pb2.RuntimeInfo(
                kind=identity.runtime_kind, version=engine.runtime_version
            ),
            vocabulary_sha256=serving.formats.vocabulary_sha256,
            vision=wire.vision(shape, serving.images.token_id),
            dumps=serving.allows_dumps,
        )

    async def GetLoad(
        self, request: device_pb2.GetLoadRequest, context: Context
    ) -> device_pb2.Load:
        return wire.load(self._serving.sessions.load)

    async def PutVocabulary(
        self, request: device_pb2.PutVocabularyRequest, context: Context
    ) -> device_pb2.PutVocabularyReply:
        formats = self._serving.formats
        vocabulary = await asyncio.to_thread(vocabulary_from_wire, request.vocabulary)
        await formats.put(vocabulary)
        return device_pb2.PutVocabularyReply()

    async def DumpTensors(
        self, request: dump_pb2.DumpTensorsRequest, context: Context
    ) -> AsyncIterator[dump_pb2.DumpTensorsReply]:
        serving = self._serving
        if not serving.allows_dumps:
            raise PermissionDenied("dumps are off: start the device service with --allow-dumps")
        wanted = dump.plan(request, serving.engine, self._identity.bmodel_sha256)
        remaining_s = context.time_remaining()
        deadline_s = None if remaining_s is None else self._clock() + remaining_s
        ids = await dump.run(wanted, serving.engine, serving.sessions, deadline_s)
        for reply in dump.replies(wanted, ids):
            yield reply

    async def SwapModel(
        self, request: device_pb2.SwapModelRequest, context: Context
    ) -> device_pb2.SwapModelReply:
        swapper = self._serving.swapper
        if swapper is None:
            raise FeatureMissing("this device changes no model: it was started without --swap-root")
        done = await swapper.swap(
            SwapRequest(request.model_directory, request.bmodel_sha256, request.preempt)
        )
        return device_pb2.SwapModelReply(
            previous=wire.model(done.old),
            model=wire.model(done.new),
            weight_bytes=done.new.weight_bytes,
            shared_weight_bytes=sum(done.new.shared_weights(done.old)),
            unloaded_first=not done.alongside,
            kept_kv_tokens=done.kept_tokens,
            pause_ms=round(done.pause_s * 1e3),
            total_ms=round(done.total_s * 1e3),
        )

    async def Session(
        self, request_iterator: AsyncIterator[device_pb2.Command], context: Context
    ) -> AsyncIterator[device_pb2.Event]:
        serving = self._serving
        session = serving.sessions.open()
        reader = asyncio.create_task(self._read(serving, session, request_iterator))
        breaker = asyncio.create_task(_abort_when_broken(serving.sessions, session, context))
        try:
            while (event := await session.get()) is not None:
                yield wire.event(event)
        finally:
            serving.sessions.close(session)
            reader.cancel()
            breaker.cancel()
            await asyncio.wait((reader, breaker))

    async def _read(
        self, serving: Serving, session: SessionState, commands: AsyncIterator[device_pb2.Command]
    ) -> None:
        try:
            async for command in commands:
                for submit in command.submits:
                    self._submit(serving, session, submit)
                for cancel in command.cancels:
                    serving.sessions.cancel(session, cancel.request_id)
            serving.sessions.end_submits(session)
        except Exception as error:
            session.end(error)

    def _submit(self, serving: Serving, session: SessionState, submit: device_pb2.Submit) -> None:
        received_s = self._clock()
        try:
            validation.check_identity(submit.bmodel_sha256, self._identity.bmodel_sha256)
            validation.check_request_id(submit.request_id)
            key = serving.sessions.admit(session, submit.request_id)
            request = _request_of(key, submit, serving, received_s)
            output_format = _output_format_of(submit, serving.formats)
            images = [(image.data, image.position) for image in submit.images]
            serving.images.check(images, request.prompt_ids)
        except Refused as refused:
            session.put(RejectedEvent(submit.request_id, refused.reason, refused.detail))
            return
        if output_format is None and not images:
            serving.sessions.submit(session, submit.request_id, request)
            return

        async def prepare(request: Request) -> Request:
            if images:
                request = replace(request, images=await serving.images.read(images, request))
            if output_format is not None:
                matcher = await serving.formats.matcher(
                    output_format, stop_ids=request.stop_ids, resume_ids=request.resume_ids
                )
                request = replace(request, matcher=matcher)
            return request

        serving.sessions.submit_when_prepared(session, submit.request_id, request, prepare)


async def _abort_when_broken(sessions: Sessions, session: SessionState, context: Context) -> None:
    """A reader that takes nothing blocks the writer too, so the session is ended from outside."""
    error = await session.broken
    sessions.close(session)
    with contextlib.suppress(grpc.aio.AbortError):
        await status.abort(context, error)


def _request_of(
    key: int, submit: device_pb2.Submit, serving: Serving, received_s: float
) -> Request:
    engine, shape = serving.engine, serving.engine.shape
    validation.check_lengths(
        prompt_tokens=len(submit.prompt_ids),
        resume_tokens=len(submit.resume_ids),
        max_tokens=submit.max_tokens,
        shape=shape,
    )
    prompt_ids = validation.check_ids(
        "prompt_ids", submit.prompt_ids, shape, image_token=serving.images.token_id
    )
    resume_ids = validation.check_ids("resume_ids", submit.resume_ids, shape)
    sampling = _sampling_of(submit, shape)
    validation.check_sampling(sampling, shape)
    try:
        sampler = engine.sampler(sampling, prompt_ids)
    except ValueError as error:
        raise Refused(RejectReason.INVALID, str(error)) from error
    return Request(
        key=key,
        prompt_ids=prompt_ids,
        sampler=sampler,
        max_tokens=submit.max_tokens,
        stop_ids=frozenset(submit.stop_ids),
        resume_ids=tuple(resume_ids.tolist()),
        priority=_priority_of(submit),
        deadline_s=(
            received_s + submit.deadline_ms / 1000 if submit.HasField("deadline_ms") else None
        ),
        logprobs=submit.HasField("logprobs"),
        prefix_key=validation.check_prefix_key(submit.prefix_key),
        resume_by_prefill=submit.resume_by_prefill,
    )


def _output_format_of(submit: device_pb2.Submit, formats: Formats) -> OutputFormat | None:
    if not submit.HasField("output_format"):
        return None
    try:
        output_format = output_format_from_wire(submit.output_format)
    except InvalidArgument as error:
        raise Refused(RejectReason.INVALID, error.message) from error
    formats.check(output_format)
    return output_format


def _priority_of(submit: device_pb2.Submit) -> int:
    value = submit.priority or generation_pb2.PRIORITY_DEFAULT
    if value not in generation_pb2.Priority.values():
        raise Refused(RejectReason.INVALID, f"priority is {value}, which is not known")
    return int(value)


def _sampling_of(submit: device_pb2.Submit, shape: ModelShape) -> Sampling:
    params = submit.sampling
    given = {
        name: getattr(params, name)
        for name in (
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
            "penalty_window_tokens",
            "seed",
        )
        if params.HasField(name)
    }
    return Sampling(
        **given,
        logit_bias=dict(params.logit_bias),
        logprobs=submit.logprobs if submit.HasField("logprobs") else None,
        min_tokens=submit.min_tokens,
        # What the head cannot draw needs no ban.
        banned_ids=tuple(stop for stop in submit.stop_ids if stop < shape.vocab_size),
    )
