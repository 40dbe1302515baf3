"""Which device gets the next completion.

In this order: the longest prefix that is resident, as long as its device is not much fuller than
the emptiest one; the device that the prefix key points to; the less loaded of two drawn at random,
so that several gateways with figures of different age do not all run to the same device
(Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.device_session import DeviceSession
    from gateway.facts import DeviceFacts
    from gateway.sequence import Sequence as Completion

# A prefix is worth a device that is fuller than the emptiest by this share of its slots, no more.
_AFFINITY_SLACK: Final = 0.5


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device that could take the completion.

    matched_tokens: of its prompt, resident there. requests: running and waiting, of all gateways.
    kv_share: of all its KV rows, those in use.
    """

    name: str
    matched_tokens: int
    requests: int
    slots: int
    kv_share: float

    @property
    def fill(self) -> float:
        return self.requests / self.slots

    @property
    def load(self) -> float:
        return self.fill + self.kv_share


def pick(candidates: Sequence[Candidate], prefix_key: str, draw: random.Random) -> Candidate:
    """Of at least one."""
    if len(candidates) == 1:
        return candidates[0]
    limit = min(candidate.fill for candidate in candidates) + _AFFINITY_SLACK
    # Waiting for a slot would cost more than the prefix saves.
    welcome = [c for c in candidates if c.requests < c.slots and c.fill <= limit]
    longest = max((candidate.matched_tokens for candidate in welcome), default=0)
    if longest:
        welcome = [c for c in welcome if c.matched_tokens == longest]
    if welcome and prefix_key:
        return max(welcome, key=lambda candidate: _affinity(prefix_key, candidate.name))
    pool = welcome if longest else candidates
    return min(draw.sample(pool, min(2, len(pool))), key=lambda candidate: candidate.load)


def _affinity(prefix_key: str, name: str) -> bytes:
    """Rendezvous hashing: the same order of devices in every gateway, whoever else comes or goes.

    Thaler and Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996.
    """
    return hashlib.blake2b(f"{prefix_key}\0{name}".encode(), digest_size=8).digest()


class Router:
    """Reads the sessions; the decision itself is `pick`."""

    def __init__(self, draw: random.Random | None = None) -> None:
        self._draw = draw or random.Random()

    def choose(
        self, completion: Completion, devices: Iterable[DeviceSession]
    ) -> DeviceSession | None:
        """A device with room that fits; None when there is none.

        A completion that has tokens already goes on only with the very bmodel that made them:
        another build of the same model would continue differently. One that a device was lost
        with goes to another device if there is one.
        """
        fitting = [d for d in devices if d.has_room and fits(completion, d)]
        fitting = [d for d in fitting if d.address not in completion.lost_on] or fitting
        if len(fitting) < 2:
            return fitting[0] if fitting else None
        candidates = [_candidate(completion, device) for device in fitting]
        picked = pick(candidates, completion.plan.prefix_key, self._draw)
        return fitting[candidates.index(picked)]


def _candidate(completion: Completion, device: DeviceSession) -> Candidate:
    load, facts = device.load, device.facts
    return Candidate(
        facts.name if facts else device.address,
        device.prefixes.matched_tokens(completion.chain),
        device.requests,
        facts.slots if facts else 1,
        load.kv_tokens / load.kv_capacity_tokens if load.kv_capacity_tokens else 0.0,
    )


def fits(completion: Completion, device: DeviceSession) -> bool:
    facts = device.facts
    if facts is None or not device.ready:
        return False
    if completion.ids:
        return facts.bmodel_sha256 == completion.bmodel_sha256
    return long_enough(completion, facts)


def long_enough(completion: Completion, facts: DeviceFacts) -> bool:
    """Whether a bmodel's lengths allow the prompt and its completion."""
    plan = completion.plan
    return (
        len(plan.prompt_ids) <= facts.max_prompt_length
        and len(plan.prompt_ids) + plan.max_tokens <= facts.context_length
    )
