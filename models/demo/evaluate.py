"""Asks the held-out questions: `python -m models.demo.evaluate` from the project's root.

Runs the float32 numpy reference over the float16 weights, greedily, and counts the answers that
contain
the key fact. Needs numpy, tokenizers and jinja2.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import jinja2
from tokenizers import Tokenizer

from models.demo.heldout import HeldoutItem, read_heldout
from tests.golden.reference import Reference

HERE = Path(__file__).parent
MAX_ANSWER_TOKENS = 64

Generate = Callable[[list[int]], list[int]]


class Chat:
    """The tokenizer and template of a model directory's `config/`."""

    def __init__(self, config: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(config / "tokenizer.json"))
        settings = json.loads((config / "tokenizer_config.json").read_text(encoding="utf-8"))
        self._template = jinja2.Environment().from_string(settings["chat_template"])

    def prompt(self, item: HeldoutItem) -> list[int]:
        messages = [{"role": m.role, "content": m.content} for m in item.messages]
        text = self._template.render(messages=messages, add_generation_prompt=True)
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def ask(items: list[HeldoutItem], chat: Chat, generate: Generate) -> list[str]:
    """The answers to `items`; `generate` maps prompt ids to answer ids."""
    return [chat.tokenizer.decode(generate(chat.prompt(item))) for item in items]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", type=Path, default=HERE, help="directory with config/ and weights/"
    )
    parser.add_argument("--heldout", type=Path, default=HERE / "heldout.jsonl")
    parser.add_argument("--at-least", type=float, default=95.0, help="per cent needed for status 0")
    args = parser.parse_args()
    reference = Reference.load(
        args.model / "config/config.json", args.model / "weights/model.safetensors"
    )
    stops = json.loads((args.model / "config/generation_config.json").read_text())["eos_token_id"]
    items = read_heldout(args.heldout)
    answers = ask(
        items,
        Chat(args.model / "config"),
        lambda ids: reference.greedy(ids, MAX_ANSWER_TOKENS, frozenset(stops)),
    )
    right = 0
    for item, answer in zip(items, answers, strict=True):
        if item.key in answer:
            right += 1
        else:
            print(f"wrong: {item.messages[-1].content!r}\n  wanted {item.key!r}, got {answer!r}")
    percent = 100 * right / len(items)
    print(f"{right} of {len(items)} held-out questions answered right: {percent:.1f} %")
    sys.exit(0 if percent >= args.at_least else 1)


if __name__ == "__main__":
    main()
