"""One model's waiting completions and the devices that run them.

A completion is in one of three places: in the queue, among the orphans (it was on a device that was
lost and may have tokens already), or on a device. Orphans go first, for their clients are reading.
An orphan waits a bounded time for a device with its bmodel, then fails; the queue waits as long
while no device is healthy at all.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from gateway import blame
from gateway.device_session import DeviceSession
from gateway.metrics import ModelMetrics
from gateway.router import Router, long_enough
from gateway.sequence import Sequence
from gateway.waiting_queue import WaitingQueue
from tpuserve.errors import InvalidArgument, Overloaded, Unavailable

_log = logging.getLogger(__name__)

_RETRY_AFTER_S: Final = 1.0


class Dispatcher:
    """Owns the order of service. Synchronous: whatever can start, starts before a call returns."""

    def __init__(
        self, model: str, *, max_waiting: int, failover_wait_s: float, metrics: ModelMetrics
    ) -> None:
        self.devices: list[DeviceSession] = []
        self._model = model
        self._max_waiting = max_waiting
        self._failover_wait_s = failover_wait_s
        self._metrics = metrics
        self._queue = WaitingQueue()
        self._router = Router()
        self._orphans: dict[str, Sequence] = {}
        self._outage: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Completions that no device has admitted yet, of this gateway."""
        handed = sum(not s.accepted for device in self.devices for s in device.sequences)
        return len(self._queue) + len(self._orphans) + handed

    @property
    def running(self) -> int:
        return sum(s.accepted for device in self.devices for s in device.sequences)

    def ready_devices(self) -> list[DeviceSession]:
        return [device for device in self.devices if device.ready]

    def check_open(self, count: int) -> None:
        """Raise Unavailable without a healthy device, Overloaded when `count` more do not fit."""
        if not self.ready_devices():
            raise self._unavailable()
        waiting = len(self._queue)
        if waiting + count > self._max_waiting:
            raise Overloaded(
                f"{waiting} requests wait for model {self._model}, at most {self._max_waiting}",
                retry_after_s=_RETRY_AFTER_S,
            )

    def enqueue(self, sequences: list[Sequence]) -> None:
        """All or none. Raises as `check_open` does."""
        self.check_open(len(sequences))
        for sequence in sequences:
            self._queue.push(sequence)
        self.pump()

    def forget(self, sequence: Sequence) -> None:
        """Take it from wherever it is; a device learns it at once."""
        self._stop_timer(sequence)
        self._queue.remove(sequence)
        self._orphans.pop(sequence.id, None)
        if sequence.device is not None:
            sequence.device.cancel(sequence)
            self.pump()

    def return_to_queue(self, sequence: Sequence) -> None:
        """A device sent it back untouched."""
        if sequence.ids:
            self._orphans[sequence.id] = sequence
        else:
            self._queue.push_front(sequence)
        self.pump()

    def adopt(self, orphans: list[Sequence]) -> None:
        """Find another device for what a lost one left, but for what may have been its end."""
        accused = blame.suspect(orphans)
        for sequence in orphans:
            if not sequence.waits_for_device:
                continue
            if sequence.seated:
                sequence.losses += 1
                if blame.given_up(sequence, accused):
                    sequence.fail(
                        Unavailable(
                            f"{sequence.losses} devices were lost or failed while they worked on "
                            f"the request"
                        )
                    )
                    continue
            self._metrics.failovers["device"] += 1
            self._orphans[sequence.id] = sequence
            sequence.orphan_timer = asyncio.get_running_loop().call_later(
                self._failover_wait_s, self._give_up, sequence
            )
        self.pump()

    def pump(self) -> None:
        """Hand out as much as there is room for."""
        self._watch_outage()
        for sequence in list(self._orphans.values()):
            device = self._router.choose(sequence, self.devices)
            if device is not None:
                del self._orphans[sequence.id]
                self._stop_timer(sequence)
                _log.info("resuming", extra={"request_id": sequence.id, "device": device.address})
                device.submit(sequence)
            elif not sequence.ids and self._outgrown(sequence):
                del self._orphans[sequence.id]
                self._stop_timer(sequence)
                self._fail_outgrown(sequence)
        while (head := self._queue.peek()) is not None:
            device = self._router.choose(head, self.devices)
            if device is not None:
                self._queue.remove(head)
                device.submit(head)
            elif self._outgrown(head):
                self._queue.remove(head)
                self._fail_outgrown(head)
            else:
                return

    def _fail_outgrown(self, sequence: Sequence) -> None:
        plan = sequence.plan
        sequence.fail(
            InvalidArgument(
                f"{len(plan.prompt_ids)} prompt tokens and {plan.max_tokens} of the completion are "
                f"more than any bmodel of model {self._model} takes now"
            )
        )

    def _outgrown(self, sequence: Sequence) -> bool:
        """Whether devices are ready and none of all would ever take it: bmodels have changed."""
        facts = [device.facts for device in self.devices if device.facts is not None]
        return bool(self.ready_devices()) and not any(long_enough(sequence, f) for f in facts)

    def _watch_outage(self) -> None:
        if self.ready_devices():
            if self._outage is not None:
                self._outage.cancel()
                self._outage = None
        elif self._outage is None and len(self._queue):
            self._outage = asyncio.get_running_loop().call_later(
                self._failover_wait_s, self._fail_queue
            )

    def _fail_queue(self) -> None:
        self._outage = None
        for sequence in list(self._queue):
            sequence.fail(self._unavailable())

    def _give_up(self, sequence: Sequence) -> None:
        sequence.orphan_timer = None
        sequence.fail(
            Unavailable(
                f"the device was lost and none with its bmodel came within "
                f"{self._failover_wait_s:g} s"
            )
        )

    @staticmethod
    def _stop_timer(sequence: Sequence) -> None:
        if sequence.orphan_timer is not None:
            sequence.orphan_timer.cancel()
            sequence.orphan_timer = None

    def _unavailable(self) -> Unavailable:
        refusals = sorted({d.refusal for d in self.devices if d.refusal is not None})
        why = f": {'; '.join(refusals)}" if refusals else ""
        return Unavailable(f"no healthy device serves model {self._model}{why}")
