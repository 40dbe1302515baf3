"""The life of a request behind its front end, and the calls that need no device."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

from gateway.admission import check_text_size, plan
from gateway.facts import DeviceFacts, TokenizerFacts
from gateway.images import check_images
from gateway.metrics import GatewayMetrics
from gateway.models import Model, ModelRegistry
from gateway.output import Ended, OutputBuffer
from gateway.output_formats import FormatChecker, PlannedFormat
from gateway.request import (
    ChatPrompt,
    Delta,
    Encoded,
    Event,
    GenerationRequest,
    Prompt,
    Started,
    TextPrompt,
)
from gateway.sequence import Sequence
from gateway.tokenizer_client import TokenizerClient
from gateway.validation import validate, validate_prompt
from tpuserve import errors

_log = logging.getLogger(__name__)

# Seeds that the gateway draws are exact in JSON, whose readers often have doubles only.
_DRAWN_SEEDS = 2**53
_SEEDS = 2**64
# A client's own deadline cancels the call a moment before or after ours.
_DEADLINE_SLACK_S = 0.02


class _ActiveRequest:
    """The completions of one request, their shared buffer and their deadline."""

    def __init__(
        self, request: GenerationRequest, model: Model, *, seed: int, max_buffered_bytes: int
    ) -> None:
        self.request = request
        self.sequences: list[Sequence] = []
        self.output = OutputBuffer(max_bytes=max_buffered_bytes, on_overflow=self._release)
        self._model = model
        self._seed = seed
        self._started = False
        self._timer: asyncio.TimerHandle | None = None

    def arm_deadline(self) -> None:
        if self.request.deadline_s is not None:
            left_s = self.request.deadline_s - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, left_s), self._expire)

    def sequence_accepted(self, sequence: Sequence, device_name: str) -> None:
        if self._started:
            return
        self._started = True
        prompts = {s.index // self.request.n: len(s.plan.prompt_ids) for s in self.sequences}
        self.output.put(
            Started(
                request_id=self.request.id,
                model=self._model.name,
                bmodel_sha256=sequence.bmodel_sha256,
                prompt_tokens=sum(prompts.values()),
                cached_tokens=sequence.cached_tokens,
                seed=self._seed,
                device=device_name,
            )
        )

    def sequence_ended(self, sequence: Sequence) -> None:
        self._model.forget(sequence)

    def sequence_failed(self, sequence: Sequence, error: Exception) -> None:
        """One completion cannot go on, so the request as a whole has failed."""
        self.output.fail(error)
        self._release()

    def close(self) -> None:
        """Free everything that is still held; the metrics get one record for each completion."""
        if self._timer is not None:
            self._timer.cancel()
        self._release()
        for sequence in self.sequences:
            self._model.metrics.record(sequence.record())

    def _expire(self) -> None:
        waits = any(not sequence.accepted for sequence in self.sequences)
        where = "in the queue" if waits else "while generating"
        self.output.fail(errors.DeadlineExceeded(f"the deadline passed {where}"))
        self._release()

    def _release(self) -> None:
        left = [sequence for sequence in self.sequences if not sequence.done]
        # Those that wait go first: a slot that frees is for others.
        for sequence in sorted(left, key=lambda s: s.device is not None):
            sequence.done = True
            self._model.forget(sequence)


class GenerationService:
    """What both front ends call. Errors are TpuserveErrors and are counted here, once."""

    def __init__(
        self, registry: ModelRegistry, *, metrics: GatewayMetrics, max_buffered_bytes: int
    ) -> None:
        self.registry = registry
        self.draining = False
        self.active = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._metrics = metrics
        self._max_buffered_bytes = max_buffered_bytes
        self._formats = FormatChecker()

    def close(self) -> None:
        self._formats.close()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """Started, then deltas, then Finished once for each index.

        Closing the iterator, at any point, cancels what is left. Must be closed (`aclosing`).
        """
        written = False
        active: _ActiveRequest | None = None
        with self._counted():
            try:
                active = await self._admit(request)
                left = len(active.sequences)
                while left:
                    for output in await active.output.take():
                        if isinstance(output, Delta):
                            sequence = active.sequences[output.index]
                            if sequence.first_written_s is None and output.token_ids:
                                sequence.first_written_s = time.monotonic()
                            written = True
                            yield output
                        elif isinstance(output, Ended):
                            left -= 1
                            yield active.sequences[output.index].finished()
                        else:
                            yield output
            except (Exception, asyncio.CancelledError, GeneratorExit) as error:
                self._count_failure(error, request, after_first_byte=written)
                raise
            finally:
                if active is not None:
                    active.close()

    async def _admit(self, request: GenerationRequest) -> _ActiveRequest:
        if self.draining:
            raise errors.Unavailable("the gateway is about to stop")
        validate(request)
        model = self.registry.resolve(request.model)
        device, tokenizer, facts = model.require()
        check_deadline(request.deadline_s)
        # Full is full: no work is spent on a prompt that would be turned away.
        model.dispatcher.check_open(len(request.prompts) * request.n)
        seed = request.sampling.seed
        seed = secrets.randbelow(_DRAWN_SEEDS) if seed is None else seed % _SEEDS
        active = _ActiveRequest(
            request, model, seed=seed, max_buffered_bytes=self._max_buffered_bytes
        )
        for number, prompt in enumerate(request.prompts):
            encoded = await self._encode(prompt, request, device, tokenizer, facts)
            planned = await self._planned_format(request, encoded, tokenizer, model)
            for draw in range(request.n):
                index = number * request.n + draw
                sequence = Sequence(
                    f"{request.id}.{index}",
                    index,
                    plan(
                        request,
                        encoded,
                        prompt=prompt,
                        seed=(seed + draw) % _SEEDS,
                        device=device,
                        tokenizer=facts,
                        output_format=planned,
                    ),
                    owner=active,
                    output=active.output,
                    metrics=model.metrics,
                    arrival_s=request.arrival_s,
                )
                active.sequences.append(sequence)
        check_deadline(request.deadline_s)
        model.dispatcher.check_open(len(active.sequences))
        for sequence in active.sequences:
            sequence.tokenizer = tokenizer
        active.arm_deadline()
        try:
            model.dispatcher.enqueue(active.sequences)
        except BaseException:
            active.close()
            raise
        return active

    async def _encode(
        self,
        prompt: Prompt,
        request: GenerationRequest,
        device: DeviceFacts,
        tokenizer: TokenizerClient,
        facts: TokenizerFacts,
    ) -> Encoded:
        if isinstance(prompt, TextPrompt):
            check_text_size(len(prompt.text.encode()), device)
        elif isinstance(prompt, ChatPrompt):
            check_chat(prompt, device, facts)
        encoded = await tokenizer.encode(prompt, deadline_s=request.deadline_s)
        if not encoded.ids:
            raise errors.InvalidArgument("the prompt has no tokens", field="prompt")
        return encoded

    async def _planned_format(
        self,
        request: GenerationRequest,
        encoded: Encoded,
        tokenizer: TokenizerClient,
        model: Model,
    ) -> PlannedFormat | None:
        """What the request asks for or its conversation demands. Raises InvalidArgument."""
        if request.output_format is not None and encoded.output_format is not None:
            raise errors.InvalidArgument(
                "output_format and a forced tool call exclude each other", field="output_format"
            )
        output_format = request.output_format or encoded.output_format
        if output_format is None:
            return None
        try:
            await self._formats.check(output_format)
        except errors.InvalidArgument as error:
            if request.output_format is not None:
                raise
            message = f"the calls that tool_choice asks for cannot be forced: {error.message}"
            raise errors.InvalidArgument(message, field="tools") from error
        model.metrics.formats[output_format.kind.value] += 1
        return PlannedFormat(output_format, await tokenizer.vocabulary())

    async def tokenize(
        self, model: str, prompt: Prompt, *, deadline_s: float | None, want_tokens: bool = True
    ) -> tuple[tuple[int, ...], list[bytes], int]:
        """Ids, each token's bytes when wanted, and the model's context length."""
        with self._failures_counted():
            if not isinstance(prompt, TextPrompt):
                validate_prompt(prompt)
            device, tokenizer, facts = self.registry.resolve(model).require()
            if isinstance(prompt, TextPrompt):
                check_text_size(len(prompt.text.encode()), device)
            elif isinstance(prompt, ChatPrompt):
                check_chat(prompt, device, facts)
            encoded = await tokenizer.encode(prompt, deadline_s=deadline_s, want_tokens=want_tokens)
            return encoded.ids, list(encoded.tokens), device.context_length

    async def detokenize(
        self,
        model: str,
        ids: tuple[int, ...],
        *,
        keep_special_tokens: bool,
        deadline_s: float | None,
    ) -> str:
        with self._failures_counted():
            _, tokenizer, facts = self.registry.resolve(model).require()
            if ids and not 0 <= min(ids) <= max(ids) < facts.vocab_size:
                raise errors.InvalidArgument(
                    f"token ids from {min(ids)} to {max(ids)}; the vocabulary has "
                    f"{facts.vocab_size} tokens",
                    field="ids",
                )
            return await tokenizer.decode(
                ids, keep_special_tokens=keep_special_tokens, deadline_s=deadline_s
            )

    def count_refusal(self, error: Exception) -> None:
        """For what a front end refuses before it can make a request of it."""
        self._count_failure(error, None, after_first_byte=False)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.active += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.active -= 1
            if not self.active:
                self.idle.set()

    @contextmanager
    def _failures_counted(self) -> Iterator[None]:
        with self._counted():
            try:
                yield
            except Exception as error:
                self._count_failure(error, None, after_first_byte=False)
                raise

    def _count_failure(
        self,
        error: BaseException,
        request: GenerationRequest | None,
        *,
        after_first_byte: bool,
    ) -> None:
        if isinstance(error, errors.TpuserveError):
            code = error.grpc_code.name
        elif isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            deadline_s = None if request is None else request.deadline_s
            late = deadline_s is not None and time.monotonic() > deadline_s - _DEADLINE_SLACK_S
            code = "DEADLINE_EXCEEDED" if late else "CANCELLED"
        else:
            code = "INTERNAL"
        self._metrics.failures[code, after_first_byte] += 1


def check_deadline(deadline_s: float | None) -> None:
    if deadline_s is not None and time.monotonic() >= deadline_s:
        raise errors.DeadlineExceeded("the deadline passed before the request was queued")


def check_chat(prompt: ChatPrompt, device: DeviceFacts, tokenizer: TokenizerFacts) -> None:
    """Raise FeatureMissing without a chat template, InvalidArgument for texts that cannot fit,
    and as `check_images`."""
    if not tokenizer.has_chat_template:
        raise errors.FeatureMissing(f"model {tokenizer.model} has no chat template")
    check_images(prompt.images, device, tokenizer)
    check_text_size(
        sum(len(text.encode()) for message in prompt.messages for text in message.texts), device
    )
