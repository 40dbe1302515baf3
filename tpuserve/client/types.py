"""What the client takes and gives: plain values. None means that the server chooses."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from tpuserve.output_format import OutputFormat

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made; `arguments_json` is an object, unless the model erred."""

    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    An assistant may have made calls, and thought before them; a tool answers the call whose id it
    names. `images` (PNG, JPEG, WebP or GIF files' contents) stand before the text.
    """

    role: Role
    text: str = ""
    tool_calls: Sequence[ToolCall] = ()
    tool_call_id: str | None = None
    reasoning: str = ""
    images: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `parameters` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, object] | None = None


class ToolMode(enum.Enum):
    NONE = "none"
    AUTO = "auto"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class NamedFunction:
    """The choice of one function."""

    name: str


class Priority(enum.Enum):
    """Scheduling class; a lower class waits for a higher one."""

    BULK = "bulk"
    DEFAULT = "default"
    INTERACTIVE = "interactive"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything about a request but its prompt; ranges as in `generation.proto`.

    model: may be empty when the server has one. temperature: 0 is greedy. seed: same seed, same
    tokens. stop: texts that end the answer and are not part of it. logprobs: number of best tokens
    beside the chosen one, None for no logprobs. n: completions to draw. prefix_key: one for all
    requests whose prompts begin alike, so that the beginning stays resident. output_format: what
    the answer must look like. timeout_s: the deadline.
    Chats only: tools and the choice among them; thinking turns it on or off, where the model can.
    """

    model: str = ""
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    penalty_window_tokens: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    n: int | None = None
    priority: Priority | None = None
    tools: Sequence[Tool] = ()
    tool_choice: ToolMode | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    thinking: bool | None = None
    prefix_key: str | None = None
    output_format: OutputFormat | None = None
    timeout_s: float | None = None


DEFAULTS: Final = Options()


class FinishReason(enum.Enum):
    """Why an answer ended; UNKNOWN for a reason that this client does not know."""

    UNKNOWN = "unknown"
    STOP = "stop"
    LENGTH = "length"
    STOP_SEQUENCE = "stop_sequence"
    TOOL_CALLS = "tool_calls"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that might have been drawn, with the natural logarithm of its probability."""

    token_id: int
    logprob: float
    token: bytes


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The drawn token and the best ones, best first."""

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
    """Where the server spent the time, in microseconds."""

    queue_us: int
    prefill_us: int
    decode_us: int
    ttft_us: int


@dataclass(frozen=True, slots=True)
class Started:
    """The first chunk: the prompt was processed."""

    request_id: str
    model: str
    prompt_tokens: int
    cached_tokens: int
    seed: int
    device: str

    @property
    def text(self) -> str:
        """Always empty: lets a loop over chunks print `text` without asking which one it has."""
        return ""


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of call number `index`: the first one has its id and name.

    The arguments of a call's pieces join to its JSON.
    """

    index: int
    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class Delta:
    """New text and tokens of completion `index`; the text may be empty."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of completion `index`; `stop` is the stop text that was met."""

    index: int
    reason: FinishReason
    stop: str | None
    usage: Usage
    timings: Timings

    @property
    def text(self) -> str:
        """Always empty, as that of `Started`."""
        return ""


Chunk = Started | Delta | Finished


@dataclass(frozen=True, slots=True)
class Completion:
    """One whole answer."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    reason: FinishReason
    stop: str | None
    timings: Timings
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    def as_message(self) -> Message:
        """What the conversation goes on with."""
        return Message("assistant", self.text, self.tool_calls, reasoning=self.reasoning)


@dataclass(frozen=True, slots=True)
class Reply:
    """Answers in one piece; `text` and `tool_calls` are the first one's."""

    request_id: str
    model: str
    seed: int
    device: str
    completions: tuple[Completion, ...]
    usage: Usage

    @property
    def text(self) -> str:
        return self.completions[0].text if self.completions else ""

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return self.completions[0].tool_calls if self.completions else ()


@dataclass(frozen=True, slots=True)
class Tokens:
    """Ids and each token's own bytes, which may be part of a character."""

    ids: tuple[int, ...]
    tokens: tuple[bytes, ...]
    context_length: int


@dataclass(frozen=True, slots=True)
class Model:
    """A served model; lengths in tokens."""

    name: str
    bmodel_sha256: str
    context_length: int
    max_prompt_length: int
    vocab_size: int
    features: tuple[str, ...]
    devices: int
    healthy_devices: int
    created_s: int
