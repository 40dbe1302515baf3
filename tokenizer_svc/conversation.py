"""Conversations as plain values, and the shapes in which chat templates expect them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizer_svc.control import Mask


@dataclass(frozen=True, slots=True)
class ToolCall:
    """`arguments` is the object that the model wrote, or its text when that is no JSON object."""

    id: str
    name: str
    arguments: dict[str, Any] | str


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image as the client encoded it; `field` is where it stands in the request."""

    data: bytes
    field: str


@dataclass(frozen=True, slots=True)
class Message:
    """`role` is "system", "user", "assistant" or "tool"; `content` is all text parts, joined.

    `reasoning` is what an assistant thought before its content. `pieces` are texts and images in
    reading order, where there are images.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    reasoning: str = ""
    pieces: tuple[str | Picture, ...] = ()

    def for_template(self, mask: Mask) -> dict[str, Any]:
        """Absent fields have no key: templates ask `'tool_calls' in message`."""
        fields: dict[str, Any] = {"role": self.role, "content": self._content(mask)}
        if self.tool_calls:
            fields["tool_calls"] = [
                {
                    "id": mask.text(call.id),
                    "type": "function",
                    "function": {
                        "name": mask.text(call.name),
                        "arguments": mask.value(call.arguments),
                    },
                }
                for call in self.tool_calls
            ]
        if self.tool_call_id is not None:
            fields["tool_call_id"] = mask.text(self.tool_call_id)
        if self.name is not None:
            fields["name"] = mask.text(self.name)
        if self.reasoning:
            fields["reasoning_content"] = mask.text(self.reasoning)
        return fields

    def _content(self, mask: Mask) -> str | list[dict[str, str]]:
        if not self.pieces:
            return mask.text(self.content)
        return [
            {"type": "image"}
            if isinstance(piece, Picture)
            else {"type": "text", "text": mask.text(piece)}
            for piece in self.pieces
        ]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function; `parameters` is its JSON schema, None for a function without parameters."""

    name: str
    description: str
    parameters: dict[str, Any] | None

    def described(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"name": self.name, "description": self.description}
        if self.parameters is not None:
            fields["parameters"] = self.parameters
        return fields

    def for_template(self, mask: Mask) -> dict[str, Any]:
        return {"type": "function", "function": mask.value(self.described())}


@dataclass(frozen=True, slots=True)
class Conversation:
    """At least one message. `thinking` turns it on or off, None leaves it to the template."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    add_generation_prompt: bool = True
    thinking: bool | None = None

    def text_length(self) -> int:
        """Characters of all messages: a measure of the work of encoding it."""
        return sum(len(message.content) for message in self.messages)
