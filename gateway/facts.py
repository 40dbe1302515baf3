"""What the gateway knows about its peers, as plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """A model's generation_config.json; None where it says nothing."""

    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """Ids are in [0, vocab_size)."""

    model: str
    vocab_size: int
    eos_ids: tuple[int, ...]
    has_chat_template: bool
    defaults: SamplingDefaults
    takes_images: bool = False


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """One device group. Lengths are tokens; `vocab_size` is 0 when the bmodel does not tell.

    `max_images` of a request; 0 without vision. Prompt ids may go up to `input_ids`, beyond
    `vocab_size`, where tokens stand for images.
    """

    name: str
    model: str
    bmodel_sha256: str
    context_length: int
    max_prompt_length: int
    vocab_size: int
    slots: int
    features: frozenset[str]
    prefill_chunk_tokens: int = 1
    max_images: int = 0
    input_ids: int = 0

    @property
    def reuses_prefixes(self) -> bool:
        """Prompts that begin like one that it holds are cheaper there."""
        return "prefix-cache" in self.features

    @property
    def argmax_only(self) -> bool:
        """The head yields token ids, not logits: greedy decoding is all it can do."""
        return "argmax-head" in self.features and "logits" not in self.features


@dataclass(frozen=True, slots=True)
class DeviceLoad:
    """The device's own count, all gateways together; its longest step since it was started."""

    running: int = 0
    waiting: int = 0
    kv_tokens: int = 0
    kv_capacity_tokens: int = 0
    longest_step_s: float = 0.0
