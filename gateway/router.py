"""Which device gets the next completion."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.device_session import DeviceSession
    from gateway.sequence import Sequence


def choose(sequence: Sequence, devices: Iterable[DeviceSession]) -> DeviceSession | None:
    """The device with room that has the least share of its slots taken, or None.

    Completions with one prefix key prefer one device, then one second choice and so on, as long as
    it has a free slot: waiting there would cost more than the prefix saves.
    A completion that has tokens already goes on only with the very bmodel that made them: another
    build of the same model would continue differently.
    """
    fitting = [d for d in devices if d.has_room and fits(sequence, d)]
    idle = [d for d in fitting if d.fill < 1]
    if sequence.plan.prefix_key and idle:
        return max(idle, key=lambda device: _affinity(sequence.plan.prefix_key, device))
    return min(fitting, key=lambda device: device.fill, default=None)


def _affinity(prefix_key: str, device: DeviceSession) -> bytes:
    """Rendezvous hashing: the same order of devices in every gateway, whoever else comes or goes.

    Thaler and Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996.
    """
    name = device.facts.name if device.facts else device.address
    return hashlib.blake2b(f"{prefix_key}\0{name}".encode(), digest_size=8).digest()


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
