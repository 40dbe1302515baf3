"""A request that holds a slot, or held one until it was preempted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from device_svc.engine_api import ModelShape, SavedRows
from device_svc.request import Finish, Request
from device_svc.slots import Lease


class Resident:
    """Mutable state of a request that has been admitted; owns its lease while it has one.

    fill_ids: int32 [n], what prefill puts into the slot: the prompt, and with `resume_by_prefill`
    the resume ids behind it as far as the bmodel's longest prompt goes. ids: completion tokens so
    far, resumed ones included; the last is the next decode step's input. length: tokens in the KV.
    rank: the class that it was admitted with, by age or by right. seated_s: when it got its slot;
    waited_s: how long it has waited in all. last_token_s: when the last token came or would have
    come, on the scheduler's clock. saved: its rows while it is preempted. spoiled: they may hold
    NaN.
    """

    __slots__ = (
        "_context_length",
        "_lease",
        "fill_ids",
        "ids",
        "last_token_s",
        "length",
        "rank",
        "request",
        "saved",
        "seated_s",
        "spoiled",
        "waited_s",
    )

    def __init__(self, request: Request, shape: ModelShape) -> None:
        self.request = request
        self.length = 0
        self.rank = request.priority
        self.seated_s = 0.0
        self.waited_s = 0.0
        self.last_token_s = 0.0
        self.saved: SavedRows | None = None
        self.spoiled = False
        self._lease: Lease | None = None
        self._context_length = shape.context_length
        room = max(0, shape.max_prompt_length - len(request.prompt_ids))
        self.ids = list(request.resume_ids[:room]) if request.resume_by_prefill else []
        self.fill_ids = request.prompt_ids
        if self.ids:
            self.fill_ids = np.concatenate((request.prompt_ids, np.array(self.ids, dtype=np.int32)))
            for token in self.ids:
                request.sampler.accept(token)

    @property
    def slot(self) -> int:
        assert self._lease is not None
        return self._lease.slot

    @property
    def decoding(self) -> bool:
        """Whether prefill is done."""
        return self.length >= len(self.fill_ids)

    @property
    def replaying(self) -> bool:
        """Whether the next completion token was delivered before, so that none is drawn."""
        return len(self.ids) < len(self.request.resume_ids)

    def seat(self, lease: Lease, *, now_s: float, waited_s: float) -> None:
        """Hold a slot from now on. waited_s: in all, before this and earlier seats."""
        self._lease = lease
        self.seated_s = self.last_token_s = now_s
        self.waited_s = waited_s

    def reseat(self, lease: Lease) -> None:
        """Its rows are in another slot now."""
        self.unseat()
        self._lease = lease

    def unseat(self) -> None:
        """Give the slot back."""
        if self._lease is not None:
            self._lease.close()
            self._lease = None

    def kv_ids(self) -> NDArray[np.int32]:
        """The tokens whose rows the slot holds, int32 [length]."""
        prompt_tokens = len(self.request.prompt_ids)
        decoded = np.array(self.ids[: max(0, self.length - prompt_tokens)], dtype=np.int32)
        return np.concatenate((self.request.prompt_ids, decoded))[: self.length]

    def replay(self) -> None:
        """Take the next resume id as the token of this step."""
        token = self.request.resume_ids[len(self.ids)]
        self.request.sampler.accept(token)
        self.ids.append(token)

    def append(self, token: int) -> Finish | None:
        """Take a drawn token; says whether it ends the request."""
        self.ids.append(token)
        if token in self.request.stop_ids:
            return Finish.STOP
        matcher = self.request.matcher
        if matcher is not None and matcher.accept(token):
            return Finish.STOP
        total = len(self.request.prompt_ids) + len(self.ids)
        if len(self.ids) >= self.request.max_tokens or total >= self._context_length:
            return Finish.LENGTH
        return None
