"""Which step comes next, and what its results mean. Pure, synchronous, deterministic.

    scheduler.submit(request); scheduler.cancel(key)
    while scheduler.busy:
        step = scheduler.schedule()
        run_moves(engine, scheduler.take_moves())
        scheduler.postprocess(step, run_step(engine, step), elapsed_s)
        report = scheduler.take_report()

The clock is injected and no engine is touched: rows are moved and nets launched by the caller, in
the order in which the scheduler says so. A request is in exactly one place: waiting (perhaps
preempted), prefilling or decoding. It leaves `waiting` when its first chunk is the next step, so
that it finds all rows that requests before it have made. `_release` is the only way out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from device_svc.engine_api import ModelShape, SpoiledRow
from device_svc.images import digests
from device_svc.layout import DecodeVariant, Layout, Trim
from device_svc.pacing import Pacer
from device_svc.prefix_cache import Ids, KeptPrefix, PrefixCache, PrefixMode
from device_svc.request import Accepted, Emission, Finish, Report, Request
from device_svc.resident import Resident
from device_svc.slots import SlotPool
from device_svc.steps import (
    Copy,
    DecodeStep,
    Look,
    Move,
    PrefillStep,
    Restore,
    Result,
    Save,
    Step,
    Wipe,
)
from device_svc.token_masks import Complete, Stuck
from device_svc.waiting import Waiter, WaitingRoom


@dataclass(frozen=True, slots=True)
class Policy:
    """prefix: which rows are reused. preempt_host_bytes: host memory for the rows of preempted
    requests; 0 for no preemption.
    """

    prefix: PrefixMode = PrefixMode.EXACT
    preempt_host_bytes: int = 2**30


@dataclass(frozen=True, slots=True)
class Capacity:
    """slots: residents. decode_rows: residents that one decode step serves; more take turns.
    variants: of the decode nets of a batched bmodel, where the launch depends on which slots are in
    use and how long they are; empty where it does not.
    """

    shape: ModelShape
    slots: int
    decode_rows: int
    kv_row_bytes: int
    variants: tuple[DecodeVariant, ...] = ()


class Scheduler:
    def __init__(
        self,
        capacity: Capacity,
        policy: Policy,
        *,
        pacer: Pacer,
        clock: Callable[[], float],
    ) -> None:
        self._shape = capacity.shape
        self._borders = capacity.shape.borders
        self._decode_rows = capacity.decode_rows
        self._kv_row_bytes = capacity.kv_row_bytes
        self._preempt_host_bytes = policy.preempt_host_bytes
        self._slots = SlotPool(capacity.slots)
        self._variants = capacity.variants
        # Whether slots were taken or given back since they were last put in order.
        self._untidy = False
        self._cache = PrefixCache(capacity.slots, capacity.shape, policy.prefix)
        self._pacer = pacer
        self._clock = clock
        self._waiting = WaitingRoom()
        self._prefilling: dict[int, Resident] = {}
        # In turn order: who decoded longest ago is first.
        self._decoding: dict[int, Resident] = {}
        # No deadline passes before this; it may be earlier than the earliest live one.
        self._next_deadline_s = math.inf
        self._steps = 0
        self._kv_tokens = 0
        self._saved_tokens = 0
        self._moves: list[Move] = []
        self._report = Report(step=0)

    @property
    def busy(self) -> bool:
        return bool(self._prefilling or self._decoding or self._waiting)

    @property
    def running(self) -> int:
        return len(self._prefilling) + len(self._decoding)

    @property
    def free_slots(self) -> int:
        return len(self._slots.free)

    @property
    def saved_bytes(self) -> int:
        """Host memory that preempted requests take."""
        return self._saved_tokens * self._kv_row_bytes

    @property
    def kept_prefixes(self) -> list[KeptPrefix]:
        """Rows in slots that requests may take over."""
        return self._cache.kept

    def adopt(self, slot: int, ids: Ids, key: str | None) -> int:
        """A slot, none of which is in use, gets rows of ids, int32 [n]; says how many."""
        return self._cache.adopt(slot, ids, key)

    def continue_after(self, other: Scheduler) -> None:
        """Count steps behind those of another engine's scheduler."""
        self._steps = self._report.step = other._steps

    def submit(self, request: Request) -> None:
        """The request waits for a slot. Its key is new; the caller bounds how many wait."""
        self._waiting.add(Waiter(request, self._clock()))
        if request.deadline_s is not None:
            self._next_deadline_s = min(self._next_deadline_s, request.deadline_s)

    def cancel(self, key: int) -> None:
        """End the request, free its slot. Unknown keys are ignored: ends and cancels race."""
        self._finish(key, Finish.CANCELLED)

    def fail_all(self) -> None:
        """End every request after a failure of the engine."""
        for request in self._live():
            self._finish(request.key, Finish.ERROR)

    def schedule(self) -> Step | None:
        """The next step, None when nothing is running; moves are to be done before it."""
        now_s = self._clock()
        self._expire(now_s)
        if (self._prefilling or self._waiting) and self._chunk_may_run(now_s):
            self._seat(now_s)
            if self._prefilling:
                return self._next_chunk()
        if self._decoding:
            if self._untidy and self._variants:
                self._tidy()
            turn = list(self._decoding.values())
            return DecodeStep(turn[: self._decode_rows])
        return None

    def take_moves(self) -> list[Move]:
        """What to do with KV rows now, in order."""
        moves, self._moves = self._moves, []
        return moves

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
            # Last in the turn order.
            self._decoding[resident.request.key] = self._decoding.pop(resident.request.key)
            self._advance(resident, result, tokens=1, now_s=now_s)

    def take_report(self) -> Report | None:
        """What happened since the last call; None if nothing did."""
        report = self._report
        happened = report.accepted or report.emissions or report.preemptions
        if report.kind is None and not happened:
            return None
        self._report = Report(step=self._steps)
        report.running = self.running
        report.kv_tokens = self._kv_tokens
        report.saved_bytes = self.saved_bytes
        return report

    # Slots

    def _tidy(self) -> None:
        """Put who decodes into the lowest slots and long warm ones above."""
        self._untidy = False
        residents = {resident.slot: resident for resident in self._decoding.values()}
        layout = Layout(
            self._slots.count,
            {slot: resident.length for slot, resident in residents.items()},
            {resident.slot: resident.length for resident in self._prefilling.values()},
            self._cache.warm(self._slots.free),
        )
        for change in layout.plan(self._variants):
            if isinstance(change, Trim):
                kept = self._cache.trim(change.slot, change.rows)
                self._moves.append(Copy(change.slot, change.slot, kept))
                continue
            source, target = change.source, change.target
            resident = residents.pop(source, None)
            if resident is not None:
                resident.reseat(self._slots.lease(target))
                residents[target] = resident
                rows = resident.length
            else:
                rows = self._cache.rows(source)
            self._cache.shift(source, target)
            self._moves += [Copy(source, target, rows), Copy(source, source, 0)]

    def _seat(self, now_s: float) -> None:
        """Give slots to those whose turn it is before the chunk that would be next."""
        while (waiter := self._next_waiter(now_s)) is not None:
            victim = None if self._slots.free else self._victim(waiter.request.priority)
            if victim is not None:
                self._preempt(victim, now_s)
            elif not self._slots.free:
                return
            self._waiting.pop(waiter.request.key)
            if waiter.preempted is None:
                self._admit(waiter, now_s)
            else:
                self._restore(waiter, waiter.preempted, now_s)

    def _next_waiter(self, now_s: float) -> Waiter | None:
        """Who goes before all that prefill already; the highest class if one must be preempted."""
        waiter = self._waiting.first(now_s) if self._slots.free else self._waiting.highest()
        if waiter is None:
            return None
        rank = waiter.rank(now_s)
        return None if any(r.rank >= rank for r in self._prefilling.values()) else waiter

    def _victim(self, priority: int) -> Resident | None:
        """Of the lowest rank below `priority`, who came last and whose rows host memory takes."""
        room_bytes = self._preempt_host_bytes - self.saved_bytes
        residents = [*self._decoding.values(), *self._prefilling.values()]
        return min(
            (
                resident
                for resident in residents
                if resident.rank < priority and resident.length * self._kv_row_bytes <= room_bytes
            ),
            key=lambda resident: (resident.rank, -resident.seated_s),
            default=None,
        )

    def _preempt(self, resident: Resident, now_s: float) -> None:
        self._moves.append(Save(resident.slot, resident))
        self._saved_tokens += resident.length
        self._leave_slot(resident)
        del self._home(resident)[resident.request.key]
        self._waiting.add(Waiter(resident.request, now_s - resident.waited_s, resident))
        self._report.preemptions += 1

    def _restore(self, waiter: Waiter, resident: Resident, now_s: float) -> None:
        slot = self._cache.least_useful(self._slots.free)
        self._moves.append(Restore(slot, resident))
        self._saved_tokens -= resident.length
        self._kv_tokens += resident.length
        self._look(slot, resident.request)
        images = digests(resident.request.images)
        self._cache.hold_restored(slot, resident.fill_ids, resident.request.prefix_key, images)
        self._sit(resident, slot, waiter, now_s)
        self._cache.filled(slot, min(resident.length, len(resident.fill_ids)))
        self._home(resident)[resident.request.key] = resident

    def _admit(self, waiter: Waiter, now_s: float) -> None:
        request = waiter.request
        resident = Resident(request, self._shape)
        # What is recorded must be computed: of one id no row is reused.
        wanted = resident.fill_ids if request.recorder is None else resident.fill_ids[:1]
        images, key = digests(request.images), request.prefix_key
        placement = self._cache.place(wanted, key, self._slots.free, images)
        if placement.slot != placement.source:
            self._moves.append(Copy(placement.source, placement.slot, placement.tokens))
        self._look(placement.slot, request)
        self._cache.hold(placement, resident.fill_ids, key, images)
        self._sit(resident, placement.slot, waiter, now_s)
        resident.length = placement.tokens
        self._kv_tokens += placement.tokens
        self._prefilling[request.key] = resident
        prompt_tokens = len(request.prompt_ids)
        self._report.queried_tokens += prompt_tokens
        cached_tokens = min(placement.tokens, prompt_tokens)
        self._report.accepted.append(Accepted(request.key, placement.slot, cached_tokens))

    def _look(self, slot: int, request: Request) -> None:
        """Behind the slot's rows: those of a copy bring their images, often the same."""
        if self._shape.vision is not None:
            self._moves.append(Look(slot, request.images))

    def _sit(self, resident: Resident, slot: int, waiter: Waiter, now_s: float) -> None:
        resident.seat(self._slots.lease(slot), now_s=now_s, waited_s=now_s - waiter.since_s)
        resident.rank = waiter.rank(now_s)
        self._untidy = True

    def _leave_slot(self, resident: Resident) -> None:
        """Rows that are worth it stay for others."""
        slot = resident.slot
        self._untidy = True
        if resident.spoiled:
            self._cache.release(slot, resident.kv_ids()[:0], 0)
            self._moves.append(Wipe(slot))
        else:
            prefilled = min(resident.length, len(resident.fill_ids))
            kept = self._cache.release(slot, resident.kv_ids(), prefilled)
            self._moves.append(Copy(slot, slot, kept))
        self._kv_tokens -= resident.length
        resident.unseat()

    def _home(self, resident: Resident) -> dict[int, Resident]:
        return self._decoding if resident.decoding else self._prefilling

    # Steps

    def _chunk_may_run(self, now_s: float) -> bool:
        if not self._decoding:
            return True
        oldest = next(iter(self._decoding.values()))
        return self._pacer.chunk_may_run(
            now_s, oldest_token_s=oldest.last_token_s, decoding=len(self._decoding)
        )

    def _next_chunk(self) -> PrefillStep:
        # Ties go to the first admitted: dicts keep their order and max takes the first.
        resident = max(self._prefilling.values(), key=lambda r: r.rank)
        position, fill_ids = resident.length, resident.fill_ids
        end = min(self._borders.end(position), len(fill_ids))
        return PrefillStep(resident, fill_ids[position:end], position, last=end == len(fill_ids))

    def _after_chunk(self, step: PrefillStep, result: Result, now_s: float) -> None:
        resident = step.resident
        if step.last or isinstance(result, ValueError):
            key = resident.request.key
            self._decoding[key] = self._prefilling.pop(key)
            self._untidy = True
            self._advance(resident, result, tokens=len(step.ids), now_s=now_s)
        else:
            self._grow(resident, len(step.ids))

    def _advance(self, resident: Resident, result: Result, *, tokens: int, now_s: float) -> None:
        """Take what the step that put `tokens` into the KV brought."""
        resident.last_token_s = now_s
        key = resident.request.key
        if isinstance(result, ValueError):
            resident.spoiled = isinstance(result, SpoiledRow)
            self._finish(key, Finish.ERROR)
            return
        self._grow(resident, tokens)
        if isinstance(result, Complete):
            self._finish(key, Finish.STOP)
            return
        if isinstance(result, Stuck):
            self._finish(key, Finish.ERROR, result.reason)
            return
        if result is None:
            resident.replay()
            return
        finish = resident.append(result.token)
        logprobs = (result,) if resident.request.logprobs else ()
        self._report.emissions.append(Emission(key, (result.token,), logprobs, finish))
        if finish is not None:
            self._release(key)

    def _grow(self, resident: Resident, tokens: int) -> None:
        resident.length += tokens
        self._kv_tokens += tokens
        if resident.length <= len(resident.fill_ids):
            self._cache.filled(resident.slot, resident.length)

    # Ends

    def _expire(self, now_s: float) -> None:
        if now_s < self._next_deadline_s:
            return
        upcoming_s = math.inf
        for request in self._live():
            if request.deadline_s is None:
                continue
            if request.deadline_s <= now_s:
                self._finish(request.key, Finish.DEADLINE)
            else:
                upcoming_s = min(upcoming_s, request.deadline_s)
        self._next_deadline_s = upcoming_s

    def _live(self) -> list[Request]:
        residents = (*self._decoding.values(), *self._prefilling.values())
        return [
            *(resident.request for resident in residents),
            *(waiter.request for waiter in self._waiting),
        ]

    def _finish(self, key: int, finish: Finish, reason: str = "") -> None:
        """End a request that has no token in this emission."""
        if self._release(key):
            self._report.emissions.append(Emission(key, finish=finish, reason=reason))

    def _release(self, key: int) -> bool:
        resident = self._decoding.pop(key, None) or self._prefilling.pop(key, None)
        if resident is not None:
            self._leave_slot(resident)
            return True
        waiter = self._waiting.pop(key)
        if waiter is not None and waiter.preempted is not None:
            self._saved_tokens -= waiter.preempted.length
        return waiter is not None
