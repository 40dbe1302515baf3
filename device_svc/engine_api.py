"""The engine as the device service sees it.

Two implementations: `device_svc.engine.CoreEngine` over the C++ extension, and the arithmetic one
in `tests/support/fake_core.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from device_svc.images import Image, VisionShape

Rows: TypeAlias = NDArray[np.float32] | NDArray[np.int32]

TokenMask: TypeAlias = NDArray[np.uint32]
"""uint32 [(vocab + 31) // 32]; token i at bit i % 32 of word i // 32."""


@dataclass(frozen=True, slots=True)
class PrefillBorders:
    """The borders between prefill launches: 0, first, first + later, first + 2 × later …

    They never depend on what else runs, so that rows between two of them have the same bits in
    every run. A shared-prefix bmodel has a long first launch and shorter later ones.
    """

    first_tokens: int
    later_tokens: int

    def at_or_below(self, position: int) -> int:
        if position < self.first_tokens:
            return 0
        behind = (position - self.first_tokens) // self.later_tokens * self.later_tokens
        return self.first_tokens + behind

    def end(self, position: int) -> int:
        """Where the launch that begins at `position` ends at the latest."""
        if position == 0:
            return self.first_tokens
        if position < self.first_tokens:
            # Behind reused rows that end between borders.
            return min(position + self.later_tokens, self.first_tokens)
        return self.at_or_below(position) + self.later_tokens


class EngineStartError(ValueError):
    """The engine cannot be opened; the text is for the operator."""


class EngineFailure(RuntimeError):
    """A chip or the runtime failed: the state of every slot is unknown from here on."""


class SpoiledRow(ValueError):
    """The logits of one request hold NaN or nothing finite, and its KV rows may be no better."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Lengths in tokens. `vocab_size` is 0 when the bmodel does not tell it.

    prefill_chunk_tokens: most of one prefill at position 0. argmax: the head returns a token
    instead of logits, so there is nothing to sample from. features: sorted names.
    history_chunk_tokens: most of one prefill behind rows that a slot holds; 0 for as many as at
    position 0. vision: None for a model that reads text only.
    """

    context_length: int
    max_prompt_length: int
    prefill_chunk_tokens: int
    vocab_size: int
    argmax: bool
    features: tuple[str, ...]
    history_chunk_tokens: int = 0
    vision: VisionShape | None = None

    @property
    def borders(self) -> PrefillBorders:
        """Where the chunks of a prompt begin and end."""
        later = self.history_chunk_tokens or self.prefill_chunk_tokens
        return PrefillBorders(self.prefill_chunk_tokens, later)

    @property
    def history(self) -> bool:
        """Whether prefill may continue behind tokens that a slot holds."""
        return "history" in self.features


@dataclass(frozen=True, slots=True)
class SavedRows:
    """A slot's KV rows in host memory; `data` is in the engine's own format."""

    tokens: int
    data: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a request's tokens are drawn; meanings and ranges as in `tpuserve.v1.SamplingParams`.

    logprobs: None for none, else how many of the best beside the chosen token.
    banned_ids: not drawn before `min_tokens` tokens are out.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_window_tokens: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
    logprobs: int | None = None
    min_tokens: int = 0
    banned_ids: tuple[int, ...] = ()

    @property
    def greedy(self) -> bool:
        """Whether the most likely token, unchanged by penalties or bias, is drawn every time."""
        return (
            (self.temperature == 0 or self.top_k == 1)
            and self.repetition_penalty == 1
            and self.presence_penalty == 0
            and self.frequency_penalty == 0
            and not self.logit_bias
            and not (self.min_tokens and self.banned_ids)
        )


@dataclass(frozen=True, slots=True)
class ChipReading:
    """One chip's readings; None where the driver does not support the reading."""

    chip: int
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    utilisation_ratio: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    clock_hz: int | None = None


class Sampler(Protocol):
    """The sampling state of one request."""

    def accept(self, token: int) -> None:
        """Append a completion token without sampling (resume)."""


class Sampled(Protocol):
    """A drawn token; `logprob` and `top` (id, logprob; best first) when they were asked for."""

    @property
    def token(self) -> int: ...
    @property
    def logprob(self) -> float | None: ...
    @property
    def top(self) -> Sequence[tuple[int, float]]: ...


@dataclass(frozen=True, slots=True)
class StateShape:
    """Of the hidden state and of the K or V row of one token in one layer. dtype: "float16",
    "bfloat16" or "float32"."""

    layers: int
    hidden_size: int
    kv_heads: int
    head_dim: int
    dtype: str


class StateSource(Protocol):
    """Hidden states, copied to the host while steps run. Used by the engine's thread only."""

    @property
    def shape(self) -> StateShape: ...

    def watch(self, slot: int, layers: Sequence[int]) -> None:
        """From now on steps of the slot copy what the layers, ascending, put out; none end it."""

    def watched(self, slot: int) -> NDArray[np.uint8]:
        """What the slot's last step copied, uint8 [layers, tokens, bytes]."""


class Engine(Protocol):
    """One model resident on one chip group; `slots` independent sequences of tokens.

    One thread at a time, always the same one, but for `sampler` and `chip_reading`, which any
    thread may call. Raises EngineFailure when the chip or the runtime fails, ValueError for
    arguments out of range, in which case no slot has changed.
    """

    @property
    def shape(self) -> ModelShape: ...
    @property
    def runtime_version(self) -> str: ...
    @property
    def slots(self) -> int: ...
    @property
    def decode_rows(self) -> int:
        """Sequences that one decode step takes in to keep all chips busy."""

    @property
    def decode_variants(self) -> tuple[tuple[int, int], ...]:
        """Rows and length of the decode launches of a batched bmodel; see `device_svc.layout`.

        Empty where a launch does not depend on which slots are in use.
        """

    @property
    def launches(self) -> int:
        """Nets launched since the engine was opened."""

    @property
    def busy_s(self) -> Sequence[float]:
        """Seconds in which each chip of the group had work, since the engine was opened."""

    def prefill(
        self, slot: int, ids: NDArray[np.int32], position: int, *, last: bool
    ) -> Rows | None:
        """Fill KV rows [position, position + n) with ids, int32 [n]; the head's row if `last`."""

    def decode(self, slots: Sequence[int], ids: NDArray[np.int32]) -> Rows:
        """Append ids[i], int32 [n], to slots[i]; the head's rows, [n, …], in that order."""

    def sampler(self, sampling: Sampling, prompt_ids: NDArray[np.int32]) -> Sampler:
        """Raises ValueError naming a value out of range."""

    def sample(
        self, rows: Rows, samplers: Sequence[Sampler], masks: Sequence[TokenMask | None] = ()
    ) -> Sequence[Sampled | SpoiledRow]:
        """Draw one token per row and append it to its sampler, unless the row is spoiled.

        masks: what each row may yield, None for all. Where that leaves nothing the token is -1 and
        nothing is appended. Heads that return tokens take no masks.
        """

    @property
    def kv_row_bytes(self) -> int:
        """Host memory that one saved KV row takes, over all layers."""

    def copy_prefix(self, source: int, target: int, tokens: int) -> None:
        """Make KV rows [0, tokens) of source all that target holds; source may be the target."""

    def save(self, slot: int) -> SavedRows:
        """The slot's KV rows, bit for bit; the slot keeps them."""

    def restore(self, slot: int, saved: SavedRows) -> None:
        """Make the saved rows, of any slot of this engine, all that the slot holds."""

    @property
    def states(self) -> StateSource | None:
        """None for an engine that has no hidden states to show."""

    def set_images(self, slot: int, images: Sequence[Image]) -> None:
        """These are the images, by position, of the text that the slot holds and will hold.

        Those that the slot has looked at already cost nothing. Prefill and decode of the slot see
        them until the next call; copy_prefix takes them along, save and restore do not. A model
        without vision takes none.
        """

    def free(self, slot: int) -> None: ...
    def wipe(self, slot: int) -> None:
        """Free it and zero its rows, which may hold NaN: that would spread to what comes next."""

    def chip_reading(self, chip: int) -> ChipReading: ...
    def close(self) -> None: ...


OpenEngine: TypeAlias = Callable[[], Engine]
