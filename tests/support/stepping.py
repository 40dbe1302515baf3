"""Drives a device scheduler step by step over the arithmetic engine, on a clock that tests move."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from device_svc.engine_api import Sampling
from device_svc.images import Image
from device_svc.pacing import Pacer
from device_svc.request import Accepted, Emission, Finish, Report, Request
from device_svc.scheduler import Capacity, Policy, Scheduler
from device_svc.steps import DecodeStep, PrefillStep, Step, run_moves, run_step
from device_svc.token_masks import Matcher
from tests.support.fake_core import FakeEngine


class Driver:
    """A prefill chunk takes `chunk_s` and a decode step `decode_s` of the clock `now_s`."""

    def __init__(
        self,
        engine: FakeEngine,
        *,
        policy: Policy | None = None,
        itl_budget_s: float = 1.0,
        chunk_s: float = 0.0,
        decode_s: float = 0.0,
    ) -> None:
        self.engine = engine
        self.now_s = 0.0
        self.scheduler = Scheduler(
            Capacity(
                engine.shape,
                engine.slots,
                engine.decode_rows,
                engine.kv_row_bytes,
                engine.decode_variants,
            ),
            policy or Policy(),
            pacer=Pacer(itl_budget_s),
            clock=lambda: self.now_s,
        )
        self.accepted: list[Accepted] = []
        self.emissions: list[Emission] = []
        self.preemptions = 0
        self.report: Report | None = None
        self._durations = (chunk_s, decode_s)

    def submit(
        self,
        key: int,
        prompt_ids: Sequence[int],
        *,
        max_tokens: int = 4,
        stop_ids: Sequence[int] = (),
        resume_ids: Sequence[int] = (),
        priority: int = 0,
        deadline_s: float | None = None,
        sampling: Sampling | None = None,
        prefix_key: str | None = None,
        resume_by_prefill: bool = False,
        matcher: Matcher | None = None,
        images: Sequence[Image] = (),
    ) -> None:
        sampling = sampling or Sampling(temperature=0.0)
        prompt = np.array(prompt_ids, dtype=np.int32)
        self.scheduler.submit(
            Request(
                key=key,
                prompt_ids=prompt,
                sampler=self.engine.sampler(sampling, prompt),
                max_tokens=max_tokens,
                stop_ids=frozenset(stop_ids),
                resume_ids=tuple(resume_ids),
                priority=priority,
                deadline_s=deadline_s,
                logprobs=sampling.logprobs is not None,
                prefix_key=prefix_key,
                resume_by_prefill=resume_by_prefill,
                matcher=matcher,
                images=tuple(images),
            )
        )

    def step(self) -> Step | None:
        """Run one step, if there is one, and collect what was reported."""
        step = self.scheduler.schedule()
        run_moves(self.engine, self.scheduler.take_moves())
        if step is not None:
            elapsed_s = self._durations[isinstance(step, DecodeStep)]
            results = run_step(self.engine, step)
            self.now_s += elapsed_s
            self.scheduler.postprocess(step, results, elapsed_s)
            run_moves(self.engine, self.scheduler.take_moves())
        self.collect()
        return step

    def collect(self) -> None:
        report = self.scheduler.take_report()
        if report is not None:
            self.report = report
            self.preemptions += report.preemptions
            self.accepted += report.accepted
            self.emissions += report.emissions

    def run(self) -> None:
        """Until nothing is left to do."""
        while self.step() is not None:
            pass

    def ids(self, key: int) -> list[int]:
        return [token for e in self.emissions if e.key == key for token in e.ids]

    def finish(self, key: int) -> Finish | None:
        """The request's only finish; None while it lives."""
        found = [e.finish for e in self.emissions if e.key == key and e.finish is not None]
        assert len(found) <= 1, found
        return found[0] if found else None


def name_of(step: Step | None) -> str:
    """Such as "prefill 7", "decode 7 8" (request keys) or "none"."""
    if step is None:
        return "none"
    if isinstance(step, PrefillStep):
        return f"prefill {step.resident.request.key}"
    return "decode " + " ".join(str(resident.request.key) for resident in step.residents)
