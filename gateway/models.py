"""Which models are served, by which devices, with which tokenizers.

A model exists from the moment a device reports it. A tokenizer belongs to the model whose name it
reports. A device is used only when there is such a tokenizer and every id of it is a row of the
bmodel's head. A head with more rows is fine: padding that has no text.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator

from gateway.device_session import DeviceSession
from gateway.dispatcher import Dispatcher
from gateway.facts import DeviceFacts, TokenizerFacts
from gateway.metrics import ModelMetrics
from gateway.sequence import Sequence
from gateway.tokenizer_client import TokenizerClient
from tpuserve.errors import InvalidArgument, Unavailable, UnknownModel

_log = logging.getLogger(__name__)


class Model:
    """One served name."""

    def __init__(self, name: str, *, max_waiting: int, failover_wait_s: float) -> None:
        self.name = name
        self.created_s = int(time.time())
        self.metrics = ModelMetrics()
        self.dispatcher = Dispatcher(
            name, max_waiting=max_waiting, failover_wait_s=failover_wait_s, metrics=self.metrics
        )
        self.tokenizers: list[TokenizerClient] = []
        self.facts: DeviceFacts | None = None
        self._failover_wait_s = failover_wait_s
        self._parked: dict[str, tuple[Sequence, asyncio.TimerHandle]] = {}

    @property
    def ready(self) -> bool:
        return bool(self.dispatcher.ready_devices()) and any(t.ready for t in self.tokenizers)

    def require(self) -> tuple[DeviceFacts, TokenizerClient, TokenizerFacts]:
        """What a new request needs. Raises Unavailable naming what is missing."""
        self.dispatcher.check_open(0)
        for tokenizer in self.tokenizers:
            if tokenizer.ready and tokenizer.facts is not None and self.facts is not None:
                return self.facts, tokenizer, tokenizer.facts
        raise Unavailable(f"no tokenizer for model {self.name} is reachable")

    def park(self, orphans: list[Sequence]) -> None:
        """Give sequences of a lost tokenizer another one, now or within the failover wait."""
        loop = asyncio.get_running_loop()
        for sequence in orphans:
            self.metrics.failovers["tokenizer"] += 1
            timer = loop.call_later(self._failover_wait_s, self._give_up, sequence)
            self._parked[sequence.id] = (sequence, timer)
        self.attach_parked()

    def attach_parked(self) -> None:
        tokenizer = next((t for t in self.tokenizers if t.ready), None)
        if tokenizer is None:
            return
        parked, self._parked = self._parked, {}
        for sequence, timer in parked.values():
            timer.cancel()
            sequence.attach(tokenizer)

    def forget(self, sequence: Sequence) -> None:
        """Free all that the sequence holds on devices, in queues and at the tokenizer."""
        _, timer = self._parked.pop(sequence.id, (None, None))
        if timer is not None:
            timer.cancel()
        if sequence.tokenizer is not None:
            sequence.tokenizer.close(sequence)
        self.dispatcher.forget(sequence)

    def _give_up(self, sequence: Sequence) -> None:
        sequence.fail(Unavailable("the tokenizer was lost and did not come back in time"))


class ModelRegistry:
    """Listens to all sessions and keeps the models right. `on_change` runs after each change."""

    def __init__(
        self, *, max_waiting: int, failover_wait_s: float, on_change: Callable[[], None]
    ) -> None:
        self._max_waiting = max_waiting
        self._failover_wait_s = failover_wait_s
        self._on_change = on_change
        self._models: dict[str, Model] = {}
        self._tokenizers: list[TokenizerClient] = []

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def resolve(self, name: str) -> Model:
        """The model of this name; of no name, the only one that a device has.

        Raises UnknownModel, InvalidArgument for no name with several models, and Unavailable
        before the first device has reported.
        """
        if not self._models:
            raise Unavailable("no device has connected yet")
        if name:
            model = self._models.get(name)
            if model is None:
                served = ", ".join(sorted(self._models))
                raise UnknownModel(f"model {name!r} is not served; served: {served}", field="model")
            return model
        # Devices may have gone over to another model.
        left = [model for model in self._models.values() if model.dispatcher.devices]
        if len(left) > 1:
            raise InvalidArgument(
                f"model is empty and {len(left)} models are served", field="model"
            )
        return left[0]

    # DeviceListener

    def device_changed(self, device: DeviceSession) -> None:
        model = self._place(device)
        if model is None:
            return
        model.dispatcher.pump()
        self._on_change()

    def device_lost(self, device: DeviceSession, orphans: list[Sequence]) -> None:
        for model in self._models.values():
            if device in model.dispatcher.devices:
                model.dispatcher.adopt(orphans)
        self._on_change()

    def device_returned(self, device: DeviceSession, sequence: Sequence) -> None:
        self._models[sequence.plan.model].dispatcher.return_to_queue(sequence)

    # TokenizerListener

    def tokenizer_changed(self, tokenizer: TokenizerClient, orphans: list[Sequence]) -> None:
        if tokenizer not in self._tokenizers:
            self._tokenizers.append(tokenizer)
        for model in self._models.values():
            self._pair(model)
        by_model: dict[str, list[Sequence]] = {}
        for sequence in orphans:
            by_model.setdefault(sequence.plan.model, []).append(sequence)
        for name, sequences in by_model.items():
            self._models[name].park(sequences)
        for model in self._models.values():
            model.attach_parked()
            model.dispatcher.pump()
        self._on_change()

    def _place(self, device: DeviceSession) -> Model | None:
        if device.facts is None:
            return None
        name = device.facts.model
        model = self._models.get(name)
        if model is None:
            model = self._models[name] = Model(
                name, max_waiting=self._max_waiting, failover_wait_s=self._failover_wait_s
            )
        for other in self._models.values():
            if other is not model and device in other.dispatcher.devices:
                other.dispatcher.devices.remove(device)
        if device not in model.dispatcher.devices:
            model.dispatcher.devices.append(device)
        self._pair(model)
        return model

    def _pair(self, model: Model) -> None:
        """Decide anew which tokenizers and devices of the model fit each other."""
        model.tokenizers = [
            t for t in self._tokenizers if t.facts is not None and t.facts.model == model.name
        ]
        vocab_size = max(
            (t.facts.vocab_size for t in model.tokenizers if t.facts is not None), default=None
        )
        for device in model.dispatcher.devices:
            refusal = _refusal(model.name, device.facts, vocab_size)
            if refusal is not None and refusal != device.refusal:
                # Without a tokenizer it is early days; a vocabulary that does not fit stays so.
                level = logging.INFO if vocab_size is None else logging.ERROR
                extra = {"device": device.address, "reason": refusal}
                _log.log(level, "device not used", extra=extra)
            device.refusal = refusal
        usable = [d for d in model.dispatcher.devices if d.refusal is None and d.facts is not None]
        best = [d for d in usable if d.ready] or usable
        if best:
            model.facts = max(
                (d.facts for d in best if d.facts is not None), key=lambda f: f.context_length
            )


def _refusal(model: str, facts: DeviceFacts | None, vocab_size: int | None) -> str | None:
    if vocab_size is None:
        return f"no tokenizer serves model {model}"
    known = 0 if facts is None else max(facts.vocab_size, facts.input_ids)
    if facts is not None and known and vocab_size > known:
        return (
            f"the tokenizer of model {model} has {vocab_size} tokens and the bmodel of device "
            f"{facts.name} only {known}"
        )
    return None
