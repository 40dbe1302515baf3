"""Which device gets the next completion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.device_session import DeviceSession
    from gateway.sequence import Sequence


def choose(sequence: Sequence, devices: Iterable[DeviceSession]) -> DeviceSession | None:
    """The device with room that has the least share of its slots taken, or None.

    A completion that has tokens already goes on only with the very bmodel that made them: another
    build of the same model would continue differently.
    """
    fitting = [d for d in devices if d.has_room and fits(sequence, d)]
    return min(fitting, key=lambda device: device.fill, default=None)


def fits(sequence: Sequence, device: DeviceSession) -> bool:
    facts = device.facts
    if facts is None or not device.ready:
        return False
    if sequence.ids:
        return facts.bmodel_sha256 == sequence.bmodel_sha256
    plan = sequence.plan
    return (
        len(plan.prompt_ids) <= facts.max_prompt_length
        and len(plan.prompt_ids) + plan.max_tokens <= facts.context_length
    )
