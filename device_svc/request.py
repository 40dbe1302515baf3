"""What travels between the sessions and the scheduler: requests in, outcomes out."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from device_svc.engine_api import Sampled, Sampler
from device_svc.images import Image
from device_svc.recorder import Recorder
from device_svc.token_masks import Matcher


class RejectReason(enum.Enum):
    """Why a submit was not taken."""

    INVALID = "invalid"
    BUSY = "busy"
    WRONG_MODEL = "wrong_model"
    UNSUPPORTED = "unsupported"
    DRAINING = "draining"
    DUPLICATE = "duplicate"


class Refused(Exception):
    """A submit that is not taken; `detail` names the value and the limit."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Finish(enum.Enum):
    """Why a request ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    ERROR = "error"


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A validated request.

    key: unique in the process. prompt_ids: int32 [n], n >= 1. resume_ids: completion tokens that
    were delivered before; fewer than `max_tokens`, which counts them. priority: higher goes first.
    deadline_s: on the scheduler's clock, or None. logprobs: whether emissions carry them.
    prefix_key: the rows of requests with one key are kept while there is a choice.
    resume_by_prefill: put resume_ids into the KV by prefill instead of decode steps. images: by
    their positions in the prompt, checked by `images.check_images`.
    matcher: what the completion must look like, at the point behind resume_ids; None for anything.
    recorder: collects what the layers compute; then no rows of others are reused and there are no
    stop ids.
    """

    key: int
    prompt_ids: NDArray[np.int32]
    sampler: Sampler
    max_tokens: int
    stop_ids: frozenset[int] = frozenset()
    resume_ids: tuple[int, ...] = ()
    priority: int = 0
    deadline_s: float | None = None
    logprobs: bool = False
    prefix_key: str | None = None
    resume_by_prefill: bool = False
    images: tuple[Image, ...] = ()
    matcher: Matcher | None = None
    recorder: Recorder | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request's first step is next; `cached_tokens` of its prompt were resident already."""

    key: int
    slot: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Emission:
    """New tokens of one request; `finish` is set on its last emission. reason: for the client, when
    it was the request's fault that it could not go on.
    """

    key: int
    ids: Sequence[int] = ()
    logprobs: Sequence[Sampled] = ()
    finish: Finish | None = None
    reason: str = ""


@dataclass(slots=True)
class Report:
    """What happened since the last report: at most one step, and admissions and endings around it.

    step: number of the last step. kind: "prefill" or "decode", None when no step ran.
    engine_s: time that the step spent in the engine. prefill_tokens, decode_tokens: tokens that the
    step put into the KV. queried_tokens: prompt tokens of the accepted. preemptions: how many lost
    their slot; saved_bytes: host memory that all who did take now. launches: nets launched since
    the engine was opened; chips_busy_s: time in which each chip of the group had work since then.
    """

    step: int
    kind: str | None = None
    engine_s: float = 0.0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    accepted: list[Accepted] = field(default_factory=list)
    emissions: list[Emission] = field(default_factory=list)
    queried_tokens: int = 0
    preemptions: int = 0
    running: int = 0
    kv_tokens: int = 0
    saved_bytes: int = 0
    launches: int = 0
    chips_busy_s: Sequence[float] = ()
