"""Between the messages of the Device service and the gateway's own values."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from gateway.facts import DeviceFacts, DeviceLoad
from gateway.request import Priority
from tpuserve.rpc.output_format import to_wire as output_format_to_wire
from tpuserve.v1 import device_pb2, generation_pb2

if TYPE_CHECKING:
    from gateway.sequence import RawLogprob, Sequence

_PRIORITIES: Final = {
    Priority.BULK: generation_pb2.PRIORITY_BULK,
    Priority.DEFAULT: generation_pb2.PRIORITY_DEFAULT,
    Priority.INTERACTIVE: generation_pb2.PRIORITY_INTERACTIVE,
    Priority.SYSTEM: generation_pb2.PRIORITY_SYSTEM,
}


def commands(
    items: list[device_pb2.Submit | device_pb2.Cancel],
) -> Iterator[device_pb2.Command]:
    """In order; mostly one. A command's submits are taken before its cancels, and a submit with
    images may fill a message."""
    command = device_pb2.Command()
    for item in items:
        if isinstance(item, device_pb2.Cancel):
            command.cancels.append(item)
            continue
        if command.cancels:
            yield command
            command = device_pb2.Command()
        command.submits.append(item)
        if item.images:
            yield command
            command = device_pb2.Command()
    if command.submits or command.cancels:
        yield command


def submit(sequence: Sequence) -> device_pb2.Submit:
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
        images=[
            device_pb2.SubmittedImage(data=image.data, position=image.position)
            for image in plan.images
        ],
    )
    if plan.top_logprobs is not None:
        submit.logprobs = plan.top_logprobs
    if plan.output_format is not None:
        submit.output_format.CopyFrom(output_format_to_wire(plan.output_format.output_format))
    if plan.deadline_s is not None:
        submit.deadline_ms = max(0, round((plan.deadline_s - time.monotonic()) * 1000))
    return submit


def logprobs(entries: Iterable[generation_pb2.TokenLogprob]) -> list[RawLogprob]:
    return [
        (entry.token_id, entry.logprob, tuple((c.token_id, c.logprob) for c in entry.top))
        for entry in entries
    ]


def load(load: device_pb2.Load) -> DeviceLoad:
    return DeviceLoad(
        load.running,
        load.waiting,
        load.kv_tokens,
        load.kv_capacity_tokens,
        load.longest_step_us / 1e6,
    )


def facts(info: device_pb2.DeviceInfo) -> DeviceFacts:
    return DeviceFacts(
        name=info.name,
        model=info.model.name,
        bmodel_sha256=info.model.bmodel_sha256,
        context_length=info.context_length,
        max_prompt_length=info.max_prompt_length,
        vocab_size=info.vocab_size,
        slots=max(1, info.slots),
        features=frozenset(info.features),
        prefill_chunk_tokens=max(1, info.prefill_chunk_tokens),
        max_images=info.vision.max_images,
        input_ids=info.vision.input_ids,
    )
