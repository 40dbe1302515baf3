"""One completion on its way: device tokens in, text out.

A sequence outlives the device and the tokenizer stream that serve it. It keeps every token that a
device delivered, so another device can go on behind them, and what of them the tokenizer has
answered, so another stream can be brought to the same point without repeating text.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence as ReadOnly
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from gateway.admission import Plan
from gateway.answer import Given, Text
from gateway.metrics import CompletionRecord, ModelMetrics
from gateway.output import Ended, OutputBuffer
from gateway.prefix_index import BlockChain
from gateway.request import Candidate, Delta, Finished, FinishReason, Timings, TokenLogprob, Usage
from tpuserve.errors import InternalError

if TYPE_CHECKING:
    import asyncio

    from gateway.device_session import DeviceSession
    from gateway.tokenizer_client import TokenizerClient

_PROMPT_TAIL_TOKENS: Final = 8

# A chosen token's id and logprob, and those of the n best, as the device sends them.
RawLogprob: TypeAlias = tuple[int, float, tuple[tuple[int, float], ...]]


@dataclass(frozen=True, slots=True)
class Piece:
    """What goes to the tokenizer at once. `open` starts the request there."""

    sequence_id: str
    open: bool
    ids: ReadOnly[int]
    token_bytes_of: ReadOnly[int]
    finish: bool


@dataclass(slots=True)
class _Step:
    """Tokens that the tokenizer has not answered yet."""

    ids: list[int]
    fed: ReadOnly[int]
    logprobs: list[RawLogprob]
    reason: FinishReason | None


class Owner(Protocol):
    """The request that a sequence belongs to."""

    def sequence_accepted(self, sequence: Sequence, device_name: str) -> None: ...

    def sequence_ended(self, sequence: Sequence) -> None:
        """All its text is out; device and tokenizer may forget it."""

    def sequence_failed(self, sequence: Sequence, error: Exception) -> None: ...


class Sequence:
    """State of one completion. All methods run on the event loop and never wait."""

    def __init__(
        self,
        sequence_id: str,
        index: int,
        plan: Plan,
        *,
        owner: Owner,
        output: OutputBuffer,
        metrics: ModelMetrics,
        arrival_s: float,
    ) -> None:
        self.id = sequence_id
        self.index = index
        self.plan = plan
        self.ids: list[int] = []
        self.bmodel_sha256 = ""
        self.device: DeviceSession | None = None
        self.tokenizer: TokenizerClient | None = None
        # Of its device: whether it has a slot there, and how many tokens it came with.
        self.seated = False
        self.brought_tokens = 0
        # Devices that were lost with it in a slot: how often, and which.
        self.losses = 0
        self.lost_on: set[str] = set()
        self.chain = BlockChain(plan.prompt_ids, images=[image.data for image in plan.images])
        self.orphan_timer: asyncio.TimerHandle | None = None
        self.done = False
        self.cached_tokens = 0
        self.first_written_s: float | None = None
        self._owner = owner
        self._output = output
        self._metrics = metrics
        self._arrival_s = arrival_s
        self._accepted_s: float | None = None
        self._first_token_s: float | None = None
        self._last_token_s: float | None = None
        self._end_s: float | None = None
        self._reason: FinishReason | None = None
        self._stop: str | None = None
        self._steps: deque[_Step] = deque()
        self._opened = False
        self._answered_tokens = 0
        self._answered_fed = 0
        self._given = Given(sequence_id)
        # Set while a replay is under way: how many ids its answer repeats.
        self._skip_fed: int | None = None

    @property
    def waits_for_device(self) -> bool:
        """Neither on a device nor past its last token."""
        return self.device is None and not self.done and not self._device_finished

    @property
    def accepted(self) -> bool:
        return self._accepted_s is not None

    @property
    def moved(self) -> bool:
        """Whether its device has given it a token."""
        return len(self.ids) > self.brought_tokens

    @property
    def prompt_tail(self) -> tuple[int, ...]:
        return self.plan.prompt_ids[-_PROMPT_TAIL_TOKENS:]

    # From the device

    def on_submitted(self, device: DeviceSession, bmodel_sha256: str) -> None:
        self.device = device
        self.bmodel_sha256 = bmodel_sha256
        self.seated = False
        self.brought_tokens = len(self.ids)

    def on_accepted(self, cached_tokens: int, device_name: str) -> None:
        self.seated = True
        if self._accepted_s is not None:
            return  # resumed: the client knows that it started
        self._accepted_s = time.monotonic()
        self.cached_tokens = cached_tokens
        self._metrics.prefix_queries += len(self.plan.prompt_ids)
        self._metrics.prefix_hits += cached_tokens
        self._owner.sequence_accepted(self, device_name)

    def on_tokens(
        self,
        ids: list[int],
        logprobs: list[RawLogprob],
        reason: FinishReason | None,
        now_s: float,
    ) -> None:
        """Tokens of one step; `reason` STOP: by a stop id, or as the output format is complete.

        A stop id counts as a token and has no text. Ids of padded rows have none either.
        """
        fed: list[int] = ids
        if reason is FinishReason.STOP and ids and ids[-1] in self.plan.stop_ids:
            fed = ids[:-1]
            if ids[-1] not in self.plan.eos_ids:
                reason = FinishReason.STOP_SEQUENCE
        if fed and max(fed) >= self.plan.vocab_size:
            fed = [i for i in fed if i < self.plan.vocab_size]
        if ids:
            self._stamp(len(ids), now_s)
            self.ids += ids
        self._steps.append(_Step(ids, fed, logprobs, reason))
        if self.tokenizer is not None:
            self._feed(self._steps[-1])

    def _stamp(self, tokens: int, now_s: float) -> None:
        self._metrics.generation_tokens += tokens
        if self._last_token_s is None:
            self._first_token_s = now_s
        else:
            self._metrics.itl_s.observe((now_s - self._last_token_s) / tokens, tokens)
        self._last_token_s = now_s

    @property
    def _device_finished(self) -> bool:
        return bool(self._steps) and self._steps[-1].reason is not None

    # To and from the tokenizer

    def _feed(self, step: _Step) -> None:
        finish = step.reason is not None
        if not step.fed and not finish:
            # Padded ids only: nothing to ask.
            self._answer_unasked()
            return
        if not self._opened and self._answered_tokens:
            self._replay()
            return
        assert self.tokenizer is not None
        opens, self._opened = not self._opened, True
        self.tokenizer.feed(
            self,
            Piece(
                self.id,
                opens,
                step.fed,
                self._wanted_bytes(step.logprobs) if step.logprobs else (),
                finish,
            ),
        )

    def _wanted_bytes(self, logprobs: list[RawLogprob]) -> list[int]:
        vocab_size = self.plan.vocab_size
        wanted = [i for chosen, _, top in logprobs for i in (chosen, *(c for c, _ in top))]
        return [i for i in wanted if i < vocab_size]

    def attach(self, tokenizer: TokenizerClient) -> None:
        """Use this tokenizer from now on; brings it to where a lost one was."""
        self.tokenizer = tokenizer
        if not self._steps:
            # Whatever comes next carries all that was fed before.
            return
        self._replay()

    def detach(self) -> None:
        """The tokenizer stream is gone, and with it what it knew of this sequence."""
        self.tokenizer = None
        self._opened = False

    def _replay(self) -> None:
        steps = list(self._steps)
        pending = _Step(
            [i for step in steps for i in step.ids],
            [i for step in steps for i in step.fed],
            [logprob for step in steps for logprob in step.logprobs],
            steps[-1].reason,
        )
        self._steps = deque([pending])
        before = [i for i in self.ids[: self._answered_tokens] if i < self.plan.vocab_size]
        self._skip_fed = len(before)
        assert self.tokenizer is not None
        self._opened = True
        self.tokenizer.feed(
            self,
            Piece(
                self.id,
                True,
                before + list(pending.fed),
                self._wanted_bytes(pending.logprobs),
                pending.reason is not None,
            ),
        )

    def on_text(self, answer: Text) -> None:
        """The tokenizer's answer to the oldest piece."""
        if not self._steps:
            self.fail(InternalError("the tokenizer answered what it was not asked"))
            return
        if self._skip_fed is not None:
            consumed = max(0, answer.consumed - self._skip_fed)
            answer = self._given.rest(replace(answer, consumed=consumed))
            self._skip_fed = None
        self._answer(answer)
        self._answer_unasked()

    def _answer_unasked(self) -> None:
        """Pass on the oldest steps for which no piece was fed."""
        while self._steps and not self._steps[0].fed and self._steps[0].reason is None:
            self._answer(Text("", None, 0, ()))

    def _answer(self, answer: Text) -> None:
        step = self._steps.popleft()
        ids = step.ids
        if answer.cut:
            ids = ids[: self._tokens_of(step, answer.consumed)]
        self._answered_tokens += len(ids)
        tool_calls = self._given.give(answer)
        logprobs = (
            self._with_bytes(step.logprobs, answer.token_bytes)[: len(ids)] if step.logprobs else []
        )
        if ids or answer.text or answer.reasoning or tool_calls:
            self._output.put(
                Delta(self.index, answer.text, ids, logprobs, answer.reasoning, tool_calls)
            )
        if answer.stop_index is not None:
            self._end(FinishReason.STOP_SEQUENCE, self.plan.stop[answer.stop_index])
        elif answer.answered or (step.reason is FinishReason.STOP and self._given.called):
            self._end(FinishReason.TOOL_CALLS, None)
        elif step.reason is not None:
            self._end(step.reason, None)

    def _tokens_of(self, step: _Step, consumed: int) -> int:
        """How many of the step's ids the first `consumed` fed ones span."""
        seen = 0
        for position, token_id in enumerate(step.ids):
            if seen == consumed:
                return position
            seen += token_id < self.plan.vocab_size
        return len(step.ids)

    def _with_bytes(
        self, logprobs: list[RawLogprob], token_bytes: ReadOnly[bytes]
    ) -> list[TokenLogprob]:
        supply = iter(token_bytes)
        vocab_size = self.plan.vocab_size

        def text_of(token_id: int) -> bytes:
            return next(supply, b"") if token_id < vocab_size else b""

        return [
            TokenLogprob(
                chosen,
                logprob,
                text_of(chosen),
                tuple(Candidate(c, value, text_of(c)) for c, value in top),
            )
            for chosen, logprob, top in logprobs
        ]

    # The end

    def _end(self, reason: FinishReason, stop: str | None) -> None:
        self._reason = reason
        self._stop = stop
        self._end_s = time.monotonic()
        self.done = True
        self._steps.clear()
        self._output.put(Ended(self.index))
        self._owner.sequence_ended(self)

    def fail(self, error: Exception) -> None:
        if not self.done:
            self._owner.sequence_failed(self, error)

    def finished(self) -> Finished:
        """The summary, once it has ended and its first token was written."""
        assert self._reason is not None
        return Finished(self.index, self._reason, self._stop, self.usage(), self._timings())

    def usage(self) -> Usage:
        return Usage(len(self.plan.prompt_ids), self._answered_tokens, self.cached_tokens)

    def _timings(self) -> Timings:
        accepted_s = self._accepted_s or self._arrival_s
        first_s = self._first_token_s or accepted_s
        return Timings(
            queue_us=_us(self._arrival_s, accepted_s),
            prefill_us=_us(accepted_s, first_s),
            decode_us=_us(first_s, self._last_token_s or first_s),
            ttft_us=_us(self._arrival_s, self.first_written_s or first_s),
        )

    def record(self) -> CompletionRecord:
        return CompletionRecord(
            arrival_s=self._arrival_s,
            accepted_s=self._accepted_s,
            first_token_s=self._first_token_s,
            first_written_s=self.first_written_s,
            last_token_s=self._last_token_s,
            end_s=self._end_s or time.monotonic(),
            prompt_tokens=len(self.plan.prompt_ids),
            completion_tokens=self._answered_tokens,
            reason=self._reason,
        )


def _us(start_s: float, end_s: float) -> int:
    return max(0, round((end_s - start_s) * 1e6))
