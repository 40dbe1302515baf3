"""A family of language models as rows: one for each kind of build."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from models.check import serving, tokenizers
from models.check.compiled import compile_checkpoint
from models.check.numbers import Array, Reference, compare
from models.check.packing import write_packed
from models.check.row import Measured, Row
from models.check.serving import Served
from models.check.tokenizers import Kind
from tests.support import torch_writer
from tests.support.float_models import four_bits
from tests.support.tiny_checkpoints import TinyCheckpoint
from tpuserve.model_dir import ModelDir

# Of the served build: holds a chat template with a tool in small tokens.
_SERVED_CONTEXT: Final = 768
_CONTEXT: Final = 128


@dataclass(frozen=True, slots=True)
class Build:
    """`arguments` are those of `tpuserve compile` besides context and weights; `features` names
    them in the table.

    served: it is also asked through the services. packing: gptq or awq for a checkpoint that holds
    4-bit weights already, torch for one in PyTorch's files. prepare: what is served of the compiled
    model.
    """

    quantize: str
    features: str
    arguments: str
    served: bool = False
    packing: str = ""
    prepare: Callable[[ModelDir], Served] = Served.of


SERVED: Final = Build("f16", "history, chunks", "--history --chunk 64", served=True)
BUILDS: Final = (
    SERVED,
    Build("bf16", "static", "--max-input 64"),
    Build("w8f16", "dynamic", "--dynamic --max-input 64"),
    Build("w4f16", "history, chunks, batch 2", "--history --chunk 32 --batch 2"),
)
ARGMAX: Final = Build("f16", "argmax head, static", "--argmax-head --max-input 64")


@dataclass(frozen=True, slots=True)
class LanguageFamily:
    """checkpoint: makes one, given `vocab` and `limit` (ids, tokens). chats: it has a chat format,
    else it continues texts. tools: its format has calls.
    """

    name: str
    checkpoint: Callable[..., TinyCheckpoint]
    reference: Reference
    tokenizer: Kind
    chats: bool = True
    tools: bool = False
    builds: tuple[Build, ...] = BUILDS

    def rows(self) -> Iterator[Row]:
        for build in self.builds:
            yield Row(self.name, build.quantize, build.features, partial(self.measure, build))

    def measure(self, build: Build, work: Path) -> Measured:
        """Raises BuildError; errors of the engine and the services are passed on."""
        source = work / "checkpoint"
        source.mkdir()
        if build.served:
            vocab, origin = tokenizers.write(self.tokenizer, source)
            tiny = self.checkpoint(vocab=vocab, limit=_SERVED_CONTEXT)
        else:
            tiny, origin = self.checkpoint(), ""
        weights = _write(tiny, build, source)
        context = _SERVED_CONTEXT if build.served else _CONTEXT
        line = f"--seq {context} --quantize {build.quantize} {build.arguments}"
        model = compile_checkpoint(source, work / "model", line)

        def logits(ids: Array) -> Array:
            return self.reference(tiny.config, weights, ids)

        vocab = int(tiny.config.get("padded_vocab_size") or tiny.config["vocab_size"])
        agreement = compare(model.bmodels, logits, vocab)
        answers, problems = "", list[str]()
        if build.served:
            answered = serving.ask(build.prepare(model), logits, chats=self.chats, tools=self.tools)
            kind = "chat" if self.chats else "text"
            answers = f"{answered.describe(kind)} ({origin} tokenizer)"
            problems = list(answered.problems)
        return Measured(
            agreement.cosine, agreement.agreeing, agreement.positions, answers, tuple(problems)
        )


def _write(tiny: TinyCheckpoint, build: Build, directory: Path) -> Mapping[str, Array]:
    """The checkpoint's files; returns the weights that the build computes with."""
    if build.packing in ("gptq", "awq"):
        return write_packed(tiny, build.packing, directory)
    if build.packing == "torch":
        torch_writer.save_shards(tiny, directory)
    else:
        tiny.write(directory)
    return four_bits(tiny.weights) if build.quantize.startswith("w4") else tiny.weights
