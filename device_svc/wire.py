"""What the device says, as messages of `tpuserve.v1`."""

from __future__ import annotations

from typing import Final

from device_svc.engine_api import ModelShape, Sampled
from device_svc.request import Finish, RejectReason
from device_svc.sessions import AcceptedEvent, FrameEvent, Load, SessionEvent
from device_svc.swap import ModelPlan
from tpuserve.v1 import device_pb2, generation_pb2

_FINISH: Final = {
    Finish.STOP: generation_pb2.FINISH_REASON_STOP,
    Finish.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
    Finish.CANCELLED: generation_pb2.FINISH_REASON_CANCELLED,
    Finish.DEADLINE: generation_pb2.FINISH_REASON_DEADLINE,
    Finish.ERROR: generation_pb2.FINISH_REASON_ERROR,
}
_REJECT: Final = {
    RejectReason.INVALID: device_pb2.REJECT_CODE_INVALID,
    RejectReason.BUSY: device_pb2.REJECT_CODE_BUSY,
    RejectReason.WRONG_MODEL: device_pb2.REJECT_CODE_WRONG_MODEL,
    RejectReason.UNSUPPORTED: device_pb2.REJECT_CODE_UNSUPPORTED,
    RejectReason.DRAINING: device_pb2.REJECT_CODE_DRAINING,
    RejectReason.DUPLICATE: device_pb2.REJECT_CODE_DUPLICATE,
}


def vision(shape: ModelShape, image_token: int | None) -> device_pb2.VisionInfo | None:
    if shape.vision is None or image_token is None:
        return None
    return device_pb2.VisionInfo(
        max_images=shape.vision.max_images,
        max_tiles=shape.vision.max_tiles,
        tile_size=shape.vision.image_size,
        input_ids=max(shape.vocab_size, image_token + 1),
    )


def model(plan: ModelPlan) -> device_pb2.ModelIdentity:
    return device_pb2.ModelIdentity(name=plan.name, bmodel_sha256=plan.sha256)


def event(said: SessionEvent) -> device_pb2.Event:
    if isinstance(said, FrameEvent):
        return device_pb2.Event(frame=_frame(said))
    if isinstance(said, AcceptedEvent):
        return device_pb2.Event(
            accepted=device_pb2.Accepted(
                request_id=said.request_id,
                slot=said.accepted.slot,
                cached_tokens=said.accepted.cached_tokens,
            )
        )
    return device_pb2.Event(
        rejected=device_pb2.Rejected(
            request_id=said.request_id, code=_REJECT[said.reason], detail=said.detail
        )
    )


def _frame(event: FrameEvent) -> device_pb2.Frame:
    frame = device_pb2.Frame(
        step=event.step, load=load(event.load), device_us=int(event.engine_s * 1e6)
    )
    add = frame.emissions.add
    for request_id, emission in event.emissions:
        wire = add(request_id=request_id, ids=emission.ids)
        if emission.finish is not None:
            wire.finish = _FINISH[emission.finish]
        for sampled in emission.logprobs:
            wire.logprobs.append(_logprob(sampled))
    return frame


def _logprob(sampled: Sampled) -> generation_pb2.TokenLogprob:
    wire = generation_pb2.TokenLogprob(token_id=sampled.token)
    if sampled.logprob is not None:
        wire.logprob = sampled.logprob
    for token_id, logprob in sampled.top:
        wire.top.add(token_id=token_id, logprob=logprob)
    return wire


def load(now: Load) -> device_pb2.Load:
    return device_pb2.Load(
        running=now.running,
        waiting=now.waiting,
        free_slots=now.free_slots,
        kv_tokens=now.kv_tokens,
        kv_capacity_tokens=now.kv_capacity_tokens,
        longest_step_us=round(now.longest_step_s * 1e6),
    )
