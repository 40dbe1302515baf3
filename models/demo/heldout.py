"""The held-out questions: wordings that the training text does not contain."""

import json
from dataclasses import dataclass
from pathlib import Path

from models.demo.corpus import phrasing
from models.demo.corpus.conversations import Message


@dataclass(frozen=True, slots=True)
class HeldoutItem:
    """A conversation that ends with a question, and the text that a right answer must contain."""

    messages: tuple[Message, ...]
    key: str

    @property
    def normalized_question(self) -> str:
        return phrasing.normalize(self.messages[-1].content)


def read_heldout(path: Path) -> list[HeldoutItem]:
    """Items of a JSON-lines file `{"messages": [{"role", "content"}, …], "key": "…"}`."""
    items = []
    for line in path.read_text(encoding="utf-8").splitlines():
        value = json.loads(line)
        messages = tuple(Message(m["role"], m["content"]) for m in value["messages"])
        items.append(HeldoutItem(messages, value["key"]))
    return items
