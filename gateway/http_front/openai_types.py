"""Request bodies. Fields that are not listed are refused by name.

Fields of the OpenAI API that ask for something tpuserve does not do are listed all the same, so
that their neutral values pass and other values get an error that says what is missing.
"""

from __future__ import annotations

from typing import Any

import msgspec


class TextPart(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    text: str | None = None
    image_url: Any = None
    detail: Any = None
    input_audio: Any = None
    file: Any = None
    refusal: str | None = None


class FunctionCall(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    arguments: str


class ToolCallBody(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    function: FunctionCall
    type: str = "function"
    index: int | None = None


class ChatMessageBody(msgspec.Struct, forbid_unknown_fields=True):
    role: str
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCallBody] | None = None
    tool_call_id: str | None = None
    # Of an assistant: what it thought before its answer, as vLLM and DeepSeek have it.
    reasoning_content: str | None = None
    # What the API returns with an answer and clients send back with it.
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: Any = None
    function_call: Any = None


class FunctionBody(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(msgspec.Struct, forbid_unknown_fields=True):
    function: FunctionBody
    type: str = "function"


class NamedFunction(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class NamedTool(msgspec.Struct, forbid_unknown_fields=True):
    """The choice of one function."""

    function: NamedFunction
    type: str = "function"


class ChatTemplateKwargs(msgspec.Struct, forbid_unknown_fields=True):
    """What vLLM hands to the chat template; the switch for thinking, by either of its names."""

    enable_thinking: bool | None = None
    thinking: bool | None = None


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchemaBody(msgspec.Struct, forbid_unknown_fields=True):
    """`strict` or not, the schema is kept."""

    name: str | None = None
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    json_schema: JsonSchemaBody | None = None


class StructuredOutputs(msgspec.Struct, forbid_unknown_fields=True):
    """One of these."""

    json: str | dict[str, Any] | None = None
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


class CommonBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What chat and plain completions share."""

    model: str = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    max_tokens: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    user: str | None = None
    response_format: ResponseFormat | None = None
    # Requests that begin alike; what gRPC calls prefix_key.
    prompt_cache_key: str | None = None
    # As vLLM has them.
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    # tpuserve's own: "bulk", "default", "interactive" or "system".
    priority: str | None = None


class ChatBody(CommonBody, forbid_unknown_fields=True, kw_only=True):
    messages: list[ChatMessageBody]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[ToolBody] | None = None
    # "none", "auto", "required" or a function.
    tool_choice: str | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: ChatTemplateKwargs | None = None
    # Accepted without effect.
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_retention: str | None = None
    # Neutral values only.
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None
    functions: Any = None
    function_call: Any = None
    web_search_options: Any = None
    reasoning_effort: str | None = None
    verbosity: str | None = None


class CompletionBody(CommonBody, forbid_unknown_fields=True, kw_only=True):
    # Lists of texts and lists of ids; told apart by hand, for JSON gives both the same form.
    prompt: str | list[Any]
    logprobs: int | None = None
    echo: bool | None = None
    # Neutral values only.
    best_of: int | None = None
    suffix: str | None = None


class LegacyBody(msgspec.Struct, forbid_unknown_fields=True):
    """`history` alternates between user and assistant, oldest first."""

    question: str
    history: list[str] = []
    stream: bool = False


class TokenizeBody(msgspec.Struct, forbid_unknown_fields=True):
    model: str = ""
    prompt: str | None = None
    messages: list[ChatMessageBody] | None = None
    tools: list[ToolBody] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(msgspec.Struct, forbid_unknown_fields=True):
    tokens: list[int]
    model: str = ""
