"""Conversations for templates that know one call in a message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tokenizer_svc.conversation import Conversation, Message


def has_parallel_calls(conversation: Conversation) -> bool:
    return any(len(message.tool_calls) > 1 for message in conversation.messages)


def one_by_one(conversation: Conversation) -> Conversation:
    """Calls that were made together as calls one after the other, each before its result."""
    return replace(conversation, messages=tuple(_one_by_one(conversation.messages)))


def _one_by_one(messages: Sequence[Message]) -> Iterator[Message]:
    position = 0
    while position < len(messages):
        message = messages[position]
        position += 1
        if len(message.tool_calls) < 2:
            yield message
            continue
        start = position
        while position < len(messages) and messages[position].role == "tool":
            position += 1
        results = list(messages[start:position])
        for number, call in enumerate(message.tool_calls):
            # What was said before the calls is said once.
            said = message if number == 0 else replace(message, content="", reasoning="", pieces=())
            yield replace(said, tool_calls=(call,))
            answers = [result for result in results if result.tool_call_id == call.id]
            yield from answers
            results = [result for result in results if result not in answers]
        yield from results
