"""Which step comes next, and what its results mean. Pure, synchronous, deterministic.

    scheduler.submit(request); scheduler.cancel(key)
    while (step := scheduler.schedule()) is not None:
        scheduler.postprocess(step, run_step(engine, step), elapsed_s)
        report = scheduler.take_report()

The clock is injected and no engine is touched but through `SlotPool`'s callback. A request is in
exactly one place: waiting, prefilling or decoding. `_finish` is the only way out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from device_svc.engine_api import ModelShape
from device_svc.pacing import Pacer
from device_svc.request import Accepted, Emission, Finish, Report, Request
from device_svc.resident import DecodeStep, PrefillStep, Resident, Result, Step
from device_svc.slots import SlotPool


class Scheduler:
    """decode_rows: residents that one decode step serves; more take turns."""

    def __init__(
        self,
        shape: ModelShape,
        slots: SlotPool,
        *,
        decode_rows: int,
        pacer: Pacer,
        clock: Callable[[], float],
    ) -> None:
        self._shape = shape
        self._slots = slots
        self._decode_rows = decode_rows
        self._pacer = pacer
        self._clock = clock
        # First come, first served inside a priority; keyed for cancellation.
        self._waiting: dict[int, dict[int, Request]] = {}
        self._prefilling: dict[int, Resident] = {}
        # In turn order: who decoded longest ago is first.
        self._decoding: dict[int, Resident] = {}
        # No deadline passes before this; it may be earlier than the earliest live one.
        self._next_deadline_s = math.inf
        self._steps = 0
        self._kv_tokens = 0
        self._report = Report(step=0)

    @property
    def busy(self) -> bool:
        return bool(self._prefilling or self._decoding or any(self._waiting.values()))

    @property
    def running(self) -> int:
        return len(self._prefilling) + len(self._decoding)

    def submit(self, request: Request) -> None:
        """The request waits for a slot. Its key is new; the caller bounds how many wait."""
        self._waiting.setdefault(request.priority, {})[request.key] = request
        if request.deadline_s is not None:
            self._next_deadline_s = min(self._next_deadline_s, request.deadline_s)

    def cancel(self, key: int) -> None:
        """End the request, free its slot. Unknown keys are ignored: ends and cancels race."""
        self._finish(key, Finish.CANCELLED)

    def fail_all(self) -> None:
        """End every request after a failure of the engine."""
        for key in self._live():
            self._finish(key, Finish.ERROR)

    def schedule(self) -> Step | None:
        """The next step, None when nothing is running."""
        now_s = self._clock()
        self._expire(now_s)
        self._admit()
        if self._prefilling and self._chunk_may_run(now_s):
            return self._next_chunk()
        if self._decoding:
            turn = list(self._decoding.values())
            return DecodeStep(turn[: self._decode_rows])
        return None

    def postprocess(self, step: Step, results: Sequence[Result], elapsed_s: float) -> None:
        """Take the results of a step that spent `elapsed_s` in the engine."""
        self._steps += 1
        report = self._report
        report.step = self._steps
        report.engine_s = elapsed_s
        now_s = self._clock()
        if isinstance(step, PrefillStep):
            self._pacer.chunk_ran(elapsed_s)
            report.kind = "prefill"
            report.prefill_tokens = len(step.ids)
            self._after_chunk(step, results[0], now_s)
            return
        self._pacer.decode_ran(elapsed_s, rows=len(step.residents))
        report.kind = "decode"
        report.decode_tokens = len(step.residents)
        for resident, result in zip(step.residents, results, strict=True):
            resident.length += 1
            self._kv_tokens += 1
            # Last in the turn order.
            self._decoding[resident.request.key] = self._decoding.pop(resident.request.key)
            self._advance(resident, result, now_s)

    def take_report(self) -> Report | None:
        """What happened since the last call; None if nothing did."""
        report = self._report
        if report.kind is None and not report.accepted and not report.emissions:
            return None
        self._report = Report(step=self._steps)
        report.running = self.running
        report.kv_tokens = self._kv_tokens
        return report

    def _admit(self) -> None:
        for priority in sorted(self._waiting, reverse=True):
            queue = self._waiting[priority]
            while queue:
                lease = self._slots.lease()
                if lease is None:
                    return
                key = next(iter(queue))
                resident = Resident(queue.pop(key), lease)
                self._prefilling[key] = resident
                self._report.accepted.append(Accepted(key, resident.slot, resident.length))
            del self._waiting[priority]

    def _chunk_may_run(self, now_s: float) -> bool:
        if not self._decoding:
            return True
        oldest = next(iter(self._decoding.values()))
        return self._pacer.chunk_may_run(
            now_s, oldest_token_s=oldest.last_token_s, decoding=len(self._decoding)
        )

    def _next_chunk(self) -> PrefillStep:
        # Ties go to the first admitted: dicts keep their order and max takes the first.
        resident = max(self._prefilling.values(), key=lambda s: s.request.priority)
        position, prompt_ids = resident.length, resident.request.prompt_ids
        end = min(position + self._shape.prefill_chunk_tokens, len(prompt_ids))
        return PrefillStep(
            resident, prompt_ids[position:end], position, last=end == len(prompt_ids)
        )

    def _after_chunk(self, step: PrefillStep, result: Result, now_s: float) -> None:
        resident = step.resident
        resident.length += len(step.ids)
        self._kv_tokens += len(step.ids)
        if isinstance(result, ValueError):
            self._finish(resident.request.key, Finish.ERROR)
        elif step.last:
            self._decoding[resident.request.key] = self._prefilling.pop(resident.request.key)
            self._advance(resident, result, now_s)

    def _advance(self, resident: Resident, result: Result, now_s: float) -> None:
        resident.last_token_s = now_s
        key = resident.request.key
        if result is None:
            resident.replay()
        elif isinstance(result, ValueError):
            self._finish(key, Finish.ERROR)
        else:
            finish = resident.append(result.token, context_length=self._shape.context_length)
            logprobs = (result,) if resident.request.logprobs else ()
            self._report.emissions.append(Emission(key, (result.token,), logprobs, finish))
            if finish is not None:
                self._release(key)

    def _expire(self, now_s: float) -> None:
        if now_s < self._next_deadline_s:
            return
        upcoming_s = math.inf
        for key, request in self._live().items():
            if request.deadline_s is None:
                continue
            if request.deadline_s <= now_s:
                self._finish(key, Finish.DEADLINE)
            else:
                upcoming_s = min(upcoming_s, request.deadline_s)
        self._next_deadline_s = upcoming_s

    def _live(self) -> dict[int, Request]:
        live = {key: resident.request for key, resident in self._decoding.items()}
        live.update((key, resident.request) for key, resident in self._prefilling.items())
        for queue in self._waiting.values():
            live.update(queue)
        return live

    def _finish(self, key: int, finish: Finish) -> None:
        """End a request that has no token in this emission."""
        if self._release(key):
            self._report.emissions.append(Emission(key, finish=finish))

    def _release(self, key: int) -> bool:
        resident = self._decoding.pop(key, None) or self._prefilling.pop(key, None)
        if resident is not None:
            self._kv_tokens -= resident.length
            resident.close()
            return True
        return any(queue.pop(key, None) is not None for queue in self._waiting.values())
