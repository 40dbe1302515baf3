"""The session with one device group: one bidirectional stream that carries all its requests."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway import device_wire as wire
from gateway.breaker import CircuitBreaker
from gateway.device_vocabulary import DeviceVocabulary
from gateway.facts import DeviceFacts, DeviceLoad
from gateway.peer import CONNECT_TIMEOUT_S, Outbox, cancel_and_wait, stay_connected
from gateway.prefix_index import ResidentPrefixes
from gateway.request import FinishReason
from gateway.silence import Silence
from tpuserve import errors
from tpuserve.rpc.options import channel_options
from tpuserve.v1 import device_pb2, device_pb2_grpc, generation_pb2

if TYPE_CHECKING:
    from gateway.sequence import Sequence

_log = logging.getLogger(__name__)

HEALTH_SERVICE: Final = "tpuserve.v1.Device"
# Completions handed to a device beyond its slots, so that a slot that frees is taken at the next
# step and not one round trip later. More would take the order of service from the gateway.
LOOKAHEAD: Final = 2
_BUSY_PAUSE_S: Final = 0.05
_LOAD_TIMEOUT_S: Final = 0.5

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

    def __init__(self, address: str, *, listener: DeviceListener, stall_timeout_s: float) -> None:
        self.address = address
        self.facts: DeviceFacts | None = None
        self.load = DeviceLoad()
        self.refusal: str | None = None
        self.prefixes = ResidentPrefixes(0, 1)
        self.breaker = CircuitBreaker(time.monotonic)
        self._silence = Silence(stall_timeout_s, time.monotonic)
        self._stalled = False
        self.stalls = 0
        self._others = 0
        self._listener = listener
        self._connected = False
        self._serving = False
        self._other_model = False
        self._busy_until_s = 0.0
        self._channel = grpc.aio.insecure_channel(address, options=channel_options())
        self._stub: device_pb2_grpc.DeviceAsyncStub = device_pb2_grpc.DeviceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._vocabulary = DeviceVocabulary(self._stub)
        self._live: dict[str, Sequence] = {}
        self._outbox: Outbox[device_pb2.Submit | device_pb2.Cancel] = Outbox()

    @property
    def ready(self) -> bool:
        """Takes new requests: connected, healthy, not stalled, and its vocabulary fits."""
        return self._connected and self._serving and not self._stalled and self.refusal is None

    @property
    def has_room(self) -> bool:
        return (
            self.ready
            and self.facts is not None
            and len(self._live) < self.facts.slots + LOOKAHEAD
            and time.monotonic() >= self._busy_until_s
            and self.breaker.may_take(len(self._live))
        )

    @property
    def requests(self) -> int:
        """Running and waiting there: this gateway's now, others' as of the last frame."""
        return len(self._live) + self._others

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
        if self._stalled:
            return f"stalled: silent for more than {self._silence.limit_s:g} s with work to do"
        if self.breaker.pause_s:
            return f"left alone after {self.breaker.failures} failures in a row"
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
        self._learn(wire.load(reply))

    def submit(self, sequence: Sequence) -> None:
        assert self.facts is not None
        if not self._live:
            self._silence.heard()
        sequence.on_submitted(self, self.facts.bmodel_sha256)
        self._live[sequence.id] = sequence
        if self.facts.reuses_prefixes:
            self.prefixes.hold(sequence.id, sequence.chain)
        planned = sequence.plan.output_format
        if planned is None or self._vocabulary.has(planned.vocabulary):
            self._outbox.put(wire.submit(sequence))
        else:
            self._vocabulary.put(planned.vocabulary, partial(self._on_vocabulary, sequence))

    def _on_vocabulary(self, sequence: Sequence, error: errors.TpuserveError | None) -> None:
        if self._live.get(sequence.id) is not sequence:
            return  # cancelled meanwhile
        if error is None:
            self._outbox.put(wire.submit(sequence))
            return
        self._take(sequence.id)
        if isinstance(error, (errors.InvalidArgument, errors.FeatureMissing)):
            sequence.fail(error)
        else:
            if not self.breaker.pause_s:
                self.breaker.failed()
            self._listener.device_lost(self, [sequence])

    def cancel(self, sequence: Sequence) -> None:
        """Free its slot after the running step; nothing more comes of it."""
        sequence.device = None
        if self._take(sequence.id) is not None:
            self._outbox.put(device_pb2.Cancel(request_id=sequence.id))

    def _take(self, request_id: str) -> Sequence | None:
        """It is no longer on this device, and may never have been."""
        sequence = self._live.pop(request_id, None)
        if sequence is not None:
            sequence.device = None
            self.prefixes.release(request_id)
        return sequence

    async def _serve(self, connected: Callable[[], None]) -> str:
        info = await self._stub.GetInfo(
            device_pb2.GetDeviceInfoRequest(), timeout=CONNECT_TIMEOUT_S, wait_for_ready=True
        )
        self.facts = wire.facts(info)
        self._vocabulary.reset(info.vocabulary_sha256)
        self.prefixes = ResidentPrefixes(self.facts.slots, self.facts.prefill_chunk_tokens)
        self._other_model = self._stalled = False
        call = self._stub.Session()
        writer = asyncio.create_task(self._write(call, self._outbox))
        watcher = asyncio.create_task(self._watch())
        listening = asyncio.create_task(self._watch_silence())
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
            await cancel_and_wait(writer, watcher, listening)
            self._lost()

    def _lost(self) -> None:
        orphans = list(self._live.values())
        self._live.clear()
        self._vocabulary.reset("")
        self._outbox = Outbox()
        self.load = DeviceLoad()
        self._others = 0
        for sequence in orphans:
            sequence.device = None
        self._failed(orphans)

    def _failed(self, orphans: list[Sequence]) -> None:
        """These requests were on it and have not ended: one failure, whatever their number."""
        if any(sequence.seated for sequence in orphans):
            pause_s = self.breaker.failed()
            if pause_s:
                _log.warning(
                    "device left alone",
                    extra={
                        "address": self.address,
                        "failures": self.breaker.failures,
                        "pause_s": pause_s,
                    },
                )
                asyncio.get_running_loop().call_later(pause_s, self._listener.device_changed, self)
        for sequence in orphans:
            sequence.lost_on.add(self.address)
        self._listener.device_lost(self, orphans)

    async def _watch_silence(self) -> None:
        """Requests on a device that is silent go elsewhere; it is used again when it speaks."""
        while True:
            await asyncio.sleep(self._silence.check_every_s)
            if self._silence.too_long(busy=bool(self._live) and not self._stalled):
                self._stalled = True
                self.stalls += 1
                orphans = list(self._live.values())
                _log.error(
                    "device stalled",
                    extra={
                        "address": self.address,
                        "silent_s": self._silence.limit_s,
                        "requests": len(orphans),
                    },
                )
                for sequence in orphans:
                    self.cancel(sequence)
                self._failed(orphans)

    @staticmethod
    async def _write(
        call: grpc.aio.StreamStreamCall[device_pb2.Command, device_pb2.Event],
        outbox: Outbox[device_pb2.Submit | device_pb2.Cancel],
    ) -> None:
        while True:
            items = await outbox.take()
            try:
                for command in wire.commands(items):
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
        self._silence.heard()
        if self._stalled:
            self._stalled = False
            _log.info("device speaks again", extra={"address": self.address})
            self._listener.device_changed(self)
        kind = event.WhichOneof("event")
        if kind == "frame":
            self._on_frame(event.frame)
        elif kind == "accepted":
            sequence = self._live.get(event.accepted.request_id)
            if sequence is not None:
                name = self.facts.name if self.facts else ""
                self.prefixes.reported(sequence.chain, event.accepted.cached_tokens)
                sequence.on_accepted(event.accepted.cached_tokens, name)
        elif kind == "rejected":
            self._on_rejected(event.rejected)

    def _on_frame(self, frame: device_pb2.Frame) -> None:
        """All emissions in one pass without waiting, so that their pieces travel together."""
        now_s = time.monotonic()
        freed = False
        broken: list[Sequence] = []
        for emission in frame.emissions:
            sequence = self._live.get(emission.request_id)
            if sequence is None:
                continue  # cancelled while the step ran
            finish = emission.finish
            if finish:
                self._take(emission.request_id)
                freed = True
                if finish not in _REASONS:
                    self._on_broken(sequence, finish, broken)
                    continue
            freed |= self.breaker.served(len(emission.ids), finished=bool(finish))
            logprobs = emission.logprobs
            sequence.on_tokens(
                list(emission.ids),
                wire.logprobs(logprobs) if logprobs else [],
                _REASONS[finish] if finish else None,
                now_s,
            )
        self._learn(wire.load(frame.load))
        if broken:
            self._failed(broken)
        if freed:
            self._listener.device_changed(self)

    def _learn(self, load: DeviceLoad) -> None:
        self.load = load
        self._others = max(0, load.running + load.waiting - len(self._live))
        self._silence.learn(load.longest_step_s)

    def _on_broken(
        self,
        sequence: Sequence,
        finish: generation_pb2.FinishReason.ValueType,
        broken: list[Sequence],
    ) -> None:
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
        broken.append(sequence)

    def _on_rejected(self, rejected: device_pb2.Rejected) -> None:
        sequence = self._take(rejected.request_id)
        if sequence is None:
            return
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
            # Counts against the request, so that it does not go round for ever.
            sequence.seated = True
            self._listener.device_lost(self, [sequence])
