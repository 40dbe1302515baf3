"""The session with one device group: one bidirectional stream that carries all its requests."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Final, Protocol

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.facts import DeviceFacts, DeviceLoad
from gateway.peer import CONNECT_TIMEOUT_S, Outbox, cancel_and_wait, stay_connected
from gateway.request import FinishReason, Priority
from tpuserve import errors
from tpuserve.rpc.options import channel_options
from tpuserve.v1 import device_pb2, device_pb2_grpc, generation_pb2

if TYPE_CHECKING:
    from gateway.sequence import RawLogprob, Sequence

_log = logging.getLogger(__name__)

HEALTH_SERVICE: Final = "tpuserve.v1.Device"
# Completions handed to a device beyond its slots, so that a slot that frees is taken at the next
# step and not one round trip later. More would take the order of service from the gateway.
LOOKAHEAD: Final = 2
_BUSY_PAUSE_S: Final = 0.05
_LOAD_TIMEOUT_S: Final = 0.5

_PRIORITIES = {
    Priority.BULK: generation_pb2.PRIORITY_BULK,
    Priority.DEFAULT: generation_pb2.PRIORITY_DEFAULT,
    Priority.INTERACTIVE: generation_pb2.PRIORITY_INTERACTIVE,
    Priority.SYSTEM: generation_pb2.PRIORITY_SYSTEM,
}
_REASONS = {
    generation_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    generation_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
}


class DeviceListener(Protocol):
    def device_changed(self, device: DeviceSession) -> None:
        """Facts, health or room changed."""

    def device_lost(self, device: DeviceSession, orphans: list[Sequence]) -> None:
        """These sequences were on it and have not finished."""

    def device_returned(self, device: DeviceSession, sequence: Sequence) -> None:
        """It could not take this one now; nothing is wrong with the device."""


class DeviceSession:
    """`run` keeps it connected. `refusal` says why a connected device is not used, if so."""

    def __init__(self, address: str, *, listener: DeviceListener) -> None:
        self.address = address
        self.facts: DeviceFacts | None = None
        self.load = DeviceLoad()
        self.refusal: str | None = None
        self._listener = listener
        self._connected = False
        self._serving = False
        self._other_model = False
        self._busy_until_s = 0.0
        self._channel = grpc.aio.insecure_channel(address, options=channel_options())
        self._stub: device_pb2_grpc.DeviceAsyncStub = device_pb2_grpc.DeviceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._live: dict[str, Sequence] = {}
        self._outbox: Outbox[device_pb2.Submit | device_pb2.Cancel] = Outbox()

    @property
    def ready(self) -> bool:
        """Takes new requests: connected, healthy, and its vocabulary fits."""
        return self._connected and self._serving and self.refusal is None

    @property
    def has_room(self) -> bool:
        return (
            self.ready
            and self.facts is not None
            and len(self._live) < self.facts.slots + LOOKAHEAD
            and time.monotonic() >= self._busy_until_s
        )

    @property
    def fill(self) -> float:
        """Share of the slots that this gateway has taken; more than 1 with requests in waiting."""
        return len(self._live) / self.facts.slots if self.facts else 1.0

    @property
    def sequences(self) -> Iterable[Sequence]:
        return self._live.values()

    @property
    def state(self) -> str:
        """One phrase for people."""
        if self.refusal is not None:
            return self.refusal
        if not self._connected:
            return "not connected"
        return "ready" if self._serving else "not serving"

    async def run(self) -> None:
        try:
            await stay_connected(self._serve, peer="device", address=self.address)
        finally:
            await self._channel.close()

    async def refresh_load(self) -> None:
        """Ask for the load, for idle devices send no frames. A device that fails keeps its last."""
        if not self._connected:
            return
        try:
            reply = await self._stub.GetLoad(device_pb2.GetLoadRequest(), timeout=_LOAD_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return
        self.load = _load(reply)

    def submit(self, sequence: Sequence) -> None:
        assert self.facts is not None
        sequence.device = self
        sequence.bmodel_sha256 = self.facts.bmodel_sha256
        self._live[sequence.id] = sequence
        self._outbox.put(_submit(sequence))

    def cancel(self, sequence: Sequence) -> None:
        """Free its slot after the running step; nothing more comes of it."""
        sequence.device = None
        if self._live.pop(sequence.id, None) is not None:
            self._outbox.put(device_pb2.Cancel(request_id=sequence.id))

    async def _serve(self, connected: Callable[[], None]) -> str:
        info = await self._stub.GetInfo(
            device_pb2.GetDeviceInfoRequest(), timeout=CONNECT_TIMEOUT_S, wait_for_ready=True
        )
        self.facts = _facts(info)
        self._other_model = False
        call = self._stub.Session()
        writer = asyncio.create_task(self._write(call, self._outbox))
        watcher = asyncio.create_task(self._watch())
        try:
            self._connected = True
            connected()
            self._listener.device_changed(self)
            while True:
                event = await call.read()
                if not isinstance(event, device_pb2.Event):
                    return "the device ended the stream"
                self._on_event(event)
                if self._other_model:
                    return "the device has another model now"
        finally:
            self._connected = self._serving = False
            call.cancel()
            await cancel_and_wait(writer, watcher)
            self._lost()

    def _lost(self) -> None:
        orphans = list(self._live.values())
        self._live.clear()
        self._outbox = Outbox()
        self.load = DeviceLoad()
        for sequence in orphans:
            sequence.device = None
        self._listener.device_lost(self, orphans)

    @staticmethod
    async def _write(
        call: grpc.aio.StreamStreamCall[device_pb2.Command, device_pb2.Event],
        outbox: Outbox[device_pb2.Submit | device_pb2.Cancel],
    ) -> None:
        while True:
            items = await outbox.take()
            command = device_pb2.Command(
                submits=[item for item in items if isinstance(item, device_pb2.Submit)],
                cancels=[item for item in items if isinstance(item, device_pb2.Cancel)],
            )
            try:
                await call.write(command)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return  # the reader learns why

    async def _watch(self) -> None:
        """Follow the device's health; a watch that breaks counts as not serving."""
        while True:
            try:
                request = health_pb2.HealthCheckRequest(service=HEALTH_SERVICE)
                replies: AsyncIterator[health_pb2.HealthCheckResponse]
                replies = self._health.Watch(request)  # type: ignore[attr-defined]
                async for reply in replies:
                    self._set_serving(reply.status == health_pb2.HealthCheckResponse.SERVING)
            except grpc.aio.AioRpcError as error:
                _log.warning(
                    "health watch ended",
                    extra={"address": self.address, "status": error.code().name},
                )
            self._set_serving(False)
            await asyncio.sleep(_BUSY_PAUSE_S)

    def _set_serving(self, serving: bool) -> None:
        if serving != self._serving:
            self._serving = serving
            self._listener.device_changed(self)

    def _on_event(self, event: device_pb2.Event) -> None:
        kind = event.WhichOneof("event")
        if kind == "frame":
            self._on_frame(event.frame)
        elif kind == "accepted":
            sequence = self._live.get(event.accepted.request_id)
            if sequence is not None:
                name = self.facts.name if self.facts else ""
                sequence.on_accepted(event.accepted.cached_tokens, name)
        elif kind == "rejected":
            self._on_rejected(event.rejected)

    def _on_frame(self, frame: device_pb2.Frame) -> None:
        """All emissions in one pass without waiting, so that their pieces travel together."""
        now_s = time.monotonic()
        self.load = _load(frame.load)
        freed = False
        for emission in frame.emissions:
            sequence = self._live.get(emission.request_id)
            if sequence is None:
                continue  # cancelled while the step ran
            finish = emission.finish
            if finish:
                del self._live[emission.request_id]
                sequence.device = None
                freed = True
                if finish not in _REASONS:
                    self._on_broken(sequence, finish)
                    continue
            logprobs = emission.logprobs
            sequence.on_tokens(
                list(emission.ids),
                _logprobs(logprobs) if logprobs else [],
                _REASONS[finish] if finish else None,
                now_s,
            )
        if freed:
            self._listener.device_changed(self)

    def _on_broken(self, sequence: Sequence, finish: generation_pb2.FinishReason.ValueType) -> None:
        if finish == generation_pb2.FINISH_REASON_DEADLINE:
            sequence.fail(errors.DeadlineExceeded("the deadline passed while generating"))
            return
        _log.error(
            "the device gave up on a request",
            extra={
                "request_id": sequence.id,
                "device": self.facts.name if self.facts else self.address,
                "finish": generation_pb2.FinishReason.Name(finish),
            },
        )
        self._listener.device_lost(self, [sequence])

    def _on_rejected(self, rejected: device_pb2.Rejected) -> None:
        sequence = self._live.pop(rejected.request_id, None)
        if sequence is None:
            return
        sequence.device = None
        code, detail = rejected.code, rejected.detail
        if code == device_pb2.REJECT_CODE_INVALID:
            sequence.fail(errors.InvalidArgument(detail))
        elif code == device_pb2.REJECT_CODE_UNSUPPORTED:
            sequence.fail(errors.FeatureMissing(detail))
        elif code in (device_pb2.REJECT_CODE_BUSY, device_pb2.REJECT_CODE_DRAINING):
            # Others fill it, or it is about to say so through its health.
            self._busy_until_s = time.monotonic() + _BUSY_PAUSE_S
            asyncio.get_running_loop().call_later(
                _BUSY_PAUSE_S, self._listener.device_changed, self
            )
            self._listener.device_returned(self, sequence)
        else:
            _log.error(
                "the device refused a request",
                extra={
                    "request_id": sequence.id,
                    "code": device_pb2.RejectCode.Name(code),
                    "detail": detail,
                },
            )
            # A device whose bmodel was swapped must tell what it is before it gets more.
            self._other_model = code == device_pb2.REJECT_CODE_WRONG_MODEL
            self._connected = self._connected and not self._other_model
            self._listener.device_lost(self, [sequence])


def _submit(sequence: Sequence) -> device_pb2.Submit:
    plan, sampling = sequence.plan, sequence.plan.sampling
    submit = device_pb2.Submit(
        request_id=sequence.id,
        bmodel_sha256=sequence.bmodel_sha256,
        prompt_ids=plan.prompt_ids,
        resume_ids=sequence.ids,
        sampling=generation_pb2.SamplingParams(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            penalty_window_tokens=sampling.penalty_window_tokens,
            logit_bias=sampling.logit_bias,
            seed=sampling.seed,
        ),
        max_tokens=plan.max_tokens,
        min_tokens=plan.min_tokens,
        stop_ids=plan.stop_ids,
        priority=_PRIORITIES[plan.priority],
        prefix_key=plan.prefix_key or None,
    )
    if plan.top_logprobs is not None:
        submit.logprobs = plan.top_logprobs
    if plan.deadline_s is not None:
        submit.deadline_ms = max(0, round((plan.deadline_s - time.monotonic()) * 1000))
    return submit


def _logprobs(entries: Iterable[generation_pb2.TokenLogprob]) -> list[RawLogprob]:
    return [
        (entry.token_id, entry.logprob, tuple((c.token_id, c.logprob) for c in entry.top))
        for entry in entries
    ]


def _load(load: device_pb2.Load) -> DeviceLoad:
    return DeviceLoad(load.running, load.waiting, load.kv_tokens, load.kv_capacity_tokens)


def _facts(info: device_pb2.DeviceInfo) -> DeviceFacts:
    return DeviceFacts(
        name=info.name,
        model=info.model.name,
        bmodel_sha256=info.model.bmodel_sha256,
        context_length=info.context_length,
        max_prompt_length=info.max_prompt_length,
        vocab_size=info.vocab_size,
        slots=max(1, info.slots),
        features=frozenset(info.features),
    )
