"""What a client asks for and what it gets, free of any wire format."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TypeAlias

from tpuserve.output_format import OutputFormat


class Role(str, enum.Enum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Priority(enum.IntEnum):
    """Scheduling class; a higher value goes first."""

    BULK = 1
    DEFAULT = 2
    INTERACTIVE = 3
    SYSTEM = 4


class FinishReason(str, enum.Enum):
    """Why a completion ended well. Cancellation, deadline and failure are errors."""

    STOP = "stop"
    LENGTH = "length"
    STOP_SEQUENCE = "stop_sequence"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True)
class ToolCall:
    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    description: str
    parameters_json: str


@dataclass(frozen=True, slots=True)
class Message:
    """`parts` are texts, joined without a separator, and encoded images, in reading order.

    `reasoning` is what an assistant thought before them.
    """

    role: Role
    parts: tuple[str | bytes, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    reasoning: str = ""

    @property
    def texts(self) -> list[str]:
        return [part for part in self.parts if isinstance(part, str)]

    @property
    def images(self) -> list[bytes]:
        return [part for part in self.parts if isinstance(part, bytes)]


@dataclass(frozen=True, slots=True)
class TextPrompt:
    text: str
    add_special_tokens: bool = True


@dataclass(frozen=True, slots=True)
class IdsPrompt:
    ids: tuple[int, ...]


class ToolMode(enum.Enum):
    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`function` names the one that must be called; `mode` holds without it.

    `parallel` allows several calls.
    """

    mode: ToolMode = ToolMode.AUTO
    function: str | None = None
    parallel: bool = True

    @property
    def forced(self) -> bool:
        return self.function is not None or self.mode is ToolMode.REQUIRED


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """`thinking` turns it on or off, None leaves it to the template.

    With `raw_answer` reasoning and calls stay in the text as the model writes them.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    add_generation_prompt: bool = True
    tool_choice: ToolChoice = ToolChoice()
    thinking: bool | None = None
    raw_answer: bool = False

    @property
    def images(self) -> list[bytes]:
        """In reading order."""
        return [image for message in self.messages for image in message.images]

    @property
    def offered_tools(self) -> tuple[Tool, ...]:
        """What the model is shown."""
        return () if self.tool_choice.mode is ToolMode.NONE else self.tools


Prompt: TypeAlias = TextPrompt | IdsPrompt | ChatPrompt


@dataclass(frozen=True, slots=True, eq=False)
class PlacedImage:
    """An encoded image; the token at `position` of the prompt stands for it."""

    data: bytes
    position: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as the tokenizer made it; `tokens` are each id's bytes, where they were wanted.

    `output_format` is what the conversation demands of its answer.
    """

    ids: tuple[int, ...]
    tokens: tuple[bytes, ...] = ()
    output_format: OutputFormat | None = None
    images: tuple[PlacedImage, ...] = ()


@dataclass(frozen=True, slots=True)
class SamplingChoice:
    """What the client said about sampling; None where it said nothing."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    penalty_window_tokens: int | None = None
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class StoppingChoice:
    """What the client said about stopping; None where it said nothing."""

    max_tokens: int | None = None
    min_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One call. `prompts × n` completions are generated; index = prompt * n + draw.

    `arrival_s` and `deadline_s` are `time.monotonic()` values; no deadline is None.
    `top_logprobs` is None without logprobs. `prefix_key` is a cache hint; empty is none.
    `output_format` is None for free text.
    """

    id: str
    arrival_s: float
    model: str
    prompts: tuple[Prompt, ...]
    sampling: SamplingChoice = SamplingChoice()
    stopping: StoppingChoice = StoppingChoice()
    top_logprobs: int | None = None
    priority: Priority = Priority.DEFAULT
    n: int = 1
    deadline_s: float | None = None
    prefix_key: str = ""
    output_format: OutputFormat | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """Every value decided: the client's, else the model's, else the protocol's default."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    penalty_window_tokens: int
    logit_bias: dict[int, float]
    seed: int


@dataclass(frozen=True, slots=True)
class Candidate:
    token_id: int
    logprob: float
    token: bytes


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural logarithms; `token` is the token's own bytes, perhaps half a character."""

    token_id: int
    logprob: float
    token: bytes
    top: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Microseconds, as in the protocol's Timings."""

    queue_us: int
    prefill_us: int
    decode_us: int
    ttft_us: int


@dataclass(frozen=True, slots=True)
class Started:
    """First event: `prompt_tokens` counts every prompt once."""

    request_id: str
    model: str
    bmodel_sha256: str
    prompt_tokens: int
    cached_tokens: int
    seed: int
    device: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of the completion's call number `index`; the first one has its id and name.

    The arguments of a call's pieces join to its JSON.
    """

    index: int
    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class Delta:
    """New text and tokens of one completion; `logprobs` is empty or one per token id."""

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob]
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    index: int
    reason: FinishReason
    stop: str | None
    usage: Usage
    timings: Timings


Event: TypeAlias = Started | Delta | Finished
