"""Trains the demo model: `python -m models.demo.train` from the project's root, with
requirements.txt installed.

Writes tokenizer and configuration to models/demo/config and the weights (safetensors, float16) to
models/demo/weights. The same seed, versions and thread count give the same text and, on the same
kind of
CPU, the same weights.
"""

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from models.demo.corpus import phrasing
from models.demo.corpus.conversations import Corpus, Message
from models.demo.heldout import read_heldout
from models.demo.model import Qwen2, Qwen2Config
from models.demo.tokenizer import (
    END_OF_TEXT,
    MESSAGE_END,
    message_prefix,
    render,
    train_tokenizer,
    write_config,
)

HERE = Path(__file__).parent
BATCH_TOKENS = 4096
PEAK_LEARNING_RATE = 6e-3
WARMUP_STEPS = 200
WEIGHT_DECAY = 0.05
PROSE_SHARE = 0.04
IGNORE = -100


@dataclass(frozen=True, slots=True)
class Example:
    """`targets[i]` is the token after `ids[i]`, or IGNORE where nothing is to be learnt."""

    ids: NDArray[np.int64]
    targets: NDArray[np.int64]


class Sampler:
    """Draws training texts, leaving out every question of the held-out set."""

    def __init__(self, corpus: Corpus, heldout: frozenset[str], rng: random.Random) -> None:
        self._corpus, self._heldout, self._rng = corpus, heldout, rng

    def conversation(self) -> list[Message]:
        while True:
            messages = self._corpus.conversation(self._rng)
            questions = (phrasing.normalize(m.content) for m in messages if m.role == "user")
            if self._heldout.isdisjoint(questions):
                return messages

    def examples(self, tokenizer: Tokenizer, count: int, max_tokens: int) -> Iterator[Example]:
        for _ in range(count):
            if self._rng.random() < PROSE_SHARE:
                example = _encode_prose(tokenizer, self._corpus.prose(self._rng))
            else:
                example = _encode_conversation(tokenizer, self.conversation())
            if len(example.ids) <= max_tokens:
                yield example


def _encode_conversation(tokenizer: Tokenizer, messages: list[Message]) -> Example:
    """Only the assistant's words and the mark that ends them are learnt."""
    ids: list[int] = []
    learnt: list[bool] = []
    for message in messages:
        prefix = tokenizer.encode(message_prefix(message)).ids
        body = tokenizer.encode(message.content + MESSAGE_END).ids
        ids += prefix + body + tokenizer.encode("\n").ids
        learnt += [False] * len(prefix) + [message.role == "assistant"] * len(body) + [False]
    return _shift(ids, learnt)


def _encode_prose(tokenizer: Tokenizer, text: str) -> Example:
    ids = tokenizer.encode(text + END_OF_TEXT).ids
    return _shift(ids, [True] * len(ids))


def _shift(ids: list[int], learnt: list[bool]) -> Example:
    targets = [token if learn else IGNORE for token, learn in zip(ids[1:], learnt[1:], strict=True)]
    return Example(np.array(ids[:-1], dtype=np.int64), np.array(targets, dtype=np.int64))


def batches(examples: list[Example], rng: random.Random) -> list[tuple[Tensor, Tensor]]:
    """Examples of similar length side by side, padded at the end, about BATCH_TOKENS each,
    shuffled."""
    ordered = sorted(examples, key=lambda example: len(example.ids) + rng.random() * 16)
    result = []
    start = 0
    while start < len(ordered):
        end, longest = start, 0
        while end < len(ordered):
            longest = max(longest, len(ordered[end].ids))
            if longest * (end + 1 - start) > BATCH_TOKENS and end > start:
                break
            end += 1
        result.append(_pad(ordered[start:end]))
        start = end
    rng.shuffle(result)
    return result


def _pad(examples: list[Example]) -> tuple[Tensor, Tensor]:
    length = max(len(example.ids) for example in examples)
    ids = torch.zeros((len(examples), length), dtype=torch.int64)
    targets = torch.full((len(examples), length), IGNORE)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.from_numpy(example.ids)
        targets[row, : len(example.targets)] = torch.from_numpy(example.targets)
    return ids, targets


def loss_of(model: Qwen2, ids: Tensor, targets: Tensor) -> Tensor:
    hidden = model(ids)
    wanted = targets != IGNORE
    logits = functional.linear(hidden[wanted], model.embed_tokens.weight)
    return functional.cross_entropy(logits, targets[wanted])


def optimize(model: Qwen2, data: list[tuple[Tensor, Tensor]]) -> None:
    """One pass over `data` with AdamW, warm-up and a cosine to zero."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": WEIGHT_DECAY},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=PEAK_LEARNING_RATE,
        betas=(0.9, 0.98),
    )
    started_s = time.monotonic()
    smoothed = 0.0
    for step, (ids, targets) in enumerate(data):
        warm = min(1.0, (step + 1) / WARMUP_STEPS)
        decay = 0.5 * (1 + np.cos(np.pi * step / len(data)))
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * warm * decay
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model, ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        value = loss.item()
        smoothed = value if step == 0 else 0.98 * smoothed + 0.02 * value
        if step % 100 == 0 or step + 1 == len(data):
            passed_s = time.monotonic() - started_s
            print(f"step {step:5d}/{len(data)}  loss {smoothed:.4f}  {passed_s:6.0f} s", flush=True)


def save_weights(model: Qwen2, path: Path) -> None:
    """Hugging Face names, float16; lm_head is tied to the embedding and therefore not stored."""
    tensors = {
        f"model.{k}": v.to(torch.float16).contiguous() for k, v in model.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--examples", type=int, default=120_000, help="texts to train on, each seen once"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    config = Qwen2Config()
    heldout = frozenset(item.normalized_question for item in read_heldout(HERE / "heldout.jsonl"))
    corpus = Corpus(HERE / "corpus")
    sampler = Sampler(corpus, heldout, random.Random(args.seed))
    tokenizer = train_tokenizer(render(sampler.conversation()) for _ in range(20_000))
    write_config(args.output / "config", tokenizer, config.to_hugging_face())
    examples = list(sampler.examples(tokenizer, args.examples, config.max_position_embeddings))
    tokens = sum(len(example.ids) for example in examples)
    model = Qwen2(config)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters} parameters, {len(examples)} texts, {tokens} tokens", flush=True)
    optimize(model, batches(examples, random.Random(args.seed)))
    save_weights(model, args.output / "weights" / "model.safetensors")


if __name__ == "__main__":
    main()
