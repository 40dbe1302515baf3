"""From a checkpoint to one bmodel: drives the vendor's converter and combines the nets that are
wanted."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler import chips
from compiler.batched.ladder import MAX_SLOTS, default_lengths, ladder
from compiler.checkpoint import Checkpoint
from compiler.chips import MAX_CHIPS, NetFile
from compiler.environment import Environment
from compiler.errors import CompileError
from compiler.group_size import check_group_size
from compiler.progress import Progress
from compiler.tensor_parallel.check import check_shape, check_split

SHARED_QUANTIZATIONS = ("f16", "w4f16")
QUANTIZATIONS = ("f16", "bf16", "w8f16", "w8bf16", "w4f16", "w4bf16")
_BATCHED_DRIVER = Path(__file__).resolve().parent / "batched" / "driver.py"
_SHARED_DRIVER = Path(__file__).resolve().parent / "tensor_parallel" / "driver.py"


@dataclass(frozen=True, slots=True)
class Options:
    """What to build. Lengths are in tokens.

    seq_tokens: context length, the rows of each KV cache.
    history: prefill can continue behind resident KV rows (`block_kv_*`), chunk by chunk.
    chunk_tokens: rows of one prefill chunk and the shortest decode variant; 0 for neither.
    dynamic: prefill costs what the prompt is long; implied by history.
    max_input_tokens: longest prefill without history; 0 for seq_tokens.
    argmax_head: lm_head returns the best token instead of logits.
    sample_head: add the vendor's sampling net.
    keep_kernel: leave the chip's kernel module (5.6 MB) in the bmodel.
    batch: slots that one decode launch serves.
    lengths_tokens: lengths of the decode variants besides seq when batch is above 1; empty for its
        half and quarter.
    head: quantization of lm_head when batch is above 1; empty for that of the activations.
    images: how many a sequence can have, where the model looks at images.
    embedding_disk: no embedding nets; the table becomes a file that the host looks rows up in.
    share_tokens, unshare_tokens: prefill in two parts: a prefix of at most the first, and behind it
        at most the second; 0 for neither.
    prompt_names: call these nets block_prompt_<i> and block_<i>.
    mask_input: they take their mask as an input also where they are dynamic.
    positions_tokens: rows of the rotary tables, at least seq; 0 for seq. Bmodels of one checkpoint
        and one number here have equal weights, so that a chip holds these once.
    chips: bmodels to spread the layers over, one for each chip of a group.
    sharing: chips that compute each layer together.
    window: the nets of ChatGLM's bmodels of 2023, to test what serves them.
    """

    seq_tokens: int
    quantize: str = "f16"
    group_size: int = 64
    history: bool = False
    chunk_tokens: int = 0
    dynamic: bool = False
    max_input_tokens: int = 0
    argmax_head: bool = False
    sample_head: bool = False
    keep_kernel: bool = True
    batch: int = 1
    lengths_tokens: tuple[int, ...] = ()
    head: str = ""
    images: int = 1
    embedding_disk: bool = False
    share_tokens: int = 0
    unshare_tokens: int = 0
    prompt_names: bool = False
    mask_input: bool = False
    positions_tokens: int = 0
    chips: int = 1
    sharing: int = 1
    window: bool = False

    def check(self) -> None:
        """Raises CompileError for what the converter refuses, or accepts and gets wrong."""
        if self.quantize not in QUANTIZATIONS:
            raise CompileError(f"quantize is {self.quantize!r}, must be one of {QUANTIZATIONS}")
        if self.seq_tokens < 1:
            raise CompileError(f"seq is {self.seq_tokens}, must be positive")
        if self.history and self.chunk_tokens < 1:
            raise CompileError("history needs a chunk length")
        if self.history and self.max_input_tokens:
            raise CompileError(
                "with history the chunk length is the longest input: leave max-input out"
            )
        if self.chunk_tokens > self.seq_tokens // 2:
            raise CompileError(
                f"chunk is {self.chunk_tokens}, must be at most {self.seq_tokens // 2}, half of seq"
            )
        if self.max_input_tokens > self.seq_tokens:
            raise CompileError(
                f"max-input is {self.max_input_tokens}, must be at most seq ({self.seq_tokens})"
            )
        if not 1 <= self.chips <= MAX_CHIPS:
            raise CompileError(f"num-device is {self.chips}, must be 1 to {MAX_CHIPS}")
        self._check_sharing()
        if self.argmax_head and self.sample_head:
            raise CompileError("a sampling net needs logits: it does not go with an argmax head")
        if self.images < 1:
            raise CompileError(f"images is {self.images}, must be at least 1")
        if self.window and self != Options(
            self.seq_tokens, self.quantize, window=True, keep_kernel=self.keep_kernel
        ):
            raise CompileError("with window there are seq, quantize and keep-kernel alone")
        self._check_batch()
        self._check_share()

    def _check_sharing(self) -> None:
        if self.sharing == 1:
            return
        if self.sharing not in (2, 4):
            raise CompileError(f"tensor-parallel is {self.sharing}, must be 1, 2 or 4")
        if self.quantize not in SHARED_QUANTIZATIONS:
            raise CompileError(
                f"tensor-parallel goes with {' and '.join(SHARED_QUANTIZATIONS)}, not with "
                f"{self.quantize}"
            )
        plain = Options(
            self.seq_tokens,
            self.quantize,
            self.group_size,
            dynamic=self.dynamic,
            max_input_tokens=self.max_input_tokens,
            keep_kernel=self.keep_kernel,
            sharing=self.sharing,
        )
        if self != plain:
            raise CompileError(
                "tensor-parallel goes with seq, max-input, dynamic, quantize and group-size alone"
            )

    def _check_batch(self) -> None:
        if not 1 <= self.batch <= MAX_SLOTS:
            raise CompileError(f"batch is {self.batch}, must be 1 to {MAX_SLOTS}")
        if self.batch == 1:
            if self.head or self.lengths_tokens:
                raise CompileError("lengths and the head's quantization go with batch above 1")
            return
        if any(not 1 <= length < self.seq_tokens for length in self.lengths_tokens):
            raise CompileError(f"lengths are {self.lengths_tokens}, must be below seq")
        if self.argmax_head or self.sample_head:
            raise CompileError("with batch above 1 the heads are logits and the best token per row")
        if self.head and self.head not in QUANTIZATIONS:
            raise CompileError(f"head is {self.head!r}, must be one of {QUANTIZATIONS}")
        if self.head and self.head.endswith("bf16") != self.quantize.endswith("bf16"):
            raise CompileError(f"head {self.head} computes in another type than {self.quantize}")

    def _check_share(self) -> None:
        if self.positions_tokens and self.positions_tokens < self.seq_tokens:
            raise CompileError(
                f"positions is {self.positions_tokens}, must be at least seq ({self.seq_tokens})"
            )
        share, unshare = self.share_tokens, self.unshare_tokens
        if not share and not unshare:
            if self.prompt_names or self.mask_input:
                raise CompileError("prompt-names and mask-input go with share-length")
            return
        if share < 1 or unshare < 1 or share + unshare > self.seq_tokens:
            raise CompileError(
                f"share-length {share} and unshare-length {unshare} must be positive and at most "
                f"seq ({self.seq_tokens}) together"
            )
        if self.history or self.max_input_tokens or self.chunk_tokens:
            raise CompileError("share-length takes the place of history, chunk and max-input")
        if self.embedding_disk:
            raise CompileError("share-length needs an embedding net: it excludes embedding-disk")
        if self.argmax_head or self.sample_head:
            raise CompileError("with share-length the heads are logits and the best token")
        if self.prompt_names and unshare > share:
            raise CompileError(
                f"unshare-length is {unshare}, must be at most share-length ({share}) where one "
                "embedding net serves both"
            )

    @property
    def own_nets(self) -> bool:
        """Whether nets are wanted that the vendor's converter does not make."""
        return self.batch > 1 or bool(self.share_tokens or self.positions_tokens or self.window)

    def converter_arguments(self, checkpoint: Path, output: Path) -> list[str]:
        arguments = ["llm_convert.py", "-m", str(checkpoint), "-o", str(output), "-c", "bm1684x"]
        arguments += ["-s", str(self.seq_tokens), "-q", self.quantize, "-g", str(self.group_size)]
        if self.history:
            arguments.append("--use_history_kv")
        if self.chunk_tokens:
            arguments += ["--chunk_length", str(self.chunk_tokens)]
        if self.dynamic:
            arguments.append("--dynamic")
        if self.max_input_tokens:
            arguments += ["--max_input_length", str(self.max_input_tokens)]
        if not self.argmax_head:
            arguments.append("--do_sample")
        if self.embedding_disk:
            arguments.append("--embedding_disk")
        return arguments

    @property
    def head_quantization(self) -> str:
        return self.head or ("bf16" if self.quantize.endswith("bf16") else "f16")

    def batched_job(self, checkpoint: Path, output: Path) -> dict[str, Any]:
        """What `batched/driver.py` and the drivers of families read; the nets go below `output`."""
        chosen = (self.seq_tokens, *self.lengths_tokens)
        if not self.lengths_tokens:
            chosen = default_lengths(self.seq_tokens, self.chunk_tokens)
        variants = ladder(self.batch, chosen)
        return {
            "checkpoint": str(checkpoint),
            "output": str(output),
            "seq": self.positions_tokens or self.seq_tokens,
            "chunk": self.chunk_tokens,
            "max_input": self._prefill_tokens(),
            "quantize": self.quantize,
            "head": self.head_quantization,
            "group_size": self.group_size,
            "history": self.history,
            "dynamic": self.dynamic,
            "argmax": self.argmax_head,
            "images": self.images,
            "sharing": self.sharing,
            "embedding_disk": self.embedding_disk,
            "variants": [[variant.rows, variant.length_tokens] for variant in variants],
            "share": self._share_plan(),
            "window": self.window,
        }

    def _prefill_tokens(self) -> int:
        """Rows of block_<i>; 0 for as many as the rotary tables have."""
        chosen = self.share_tokens or self.max_input_tokens
        return chosen or (self.seq_tokens if self.positions_tokens else 0)

    def _share_plan(self) -> dict[str, Any] | None:
        if not self.share_tokens:
            return None
        return {
            "share_tokens": self.share_tokens,
            "unshare_tokens": self.unshare_tokens,
            "prompt_names": self.prompt_names,
            "mask_input": self.mask_input,
        }


def convert(
    checkpoint: Checkpoint,
    options: Options,
    environment: Environment,
    work: Path,
    *,
    progress: Progress | None = None,
) -> list[Path]:
    """Compile in the empty directory `work`; returns the path of each chip's bmodel. Raises
    CompileError.

    What the vendor's programs print is in `work`/compile.log and, for each net, in
    `work`/nets/*/NET.log.
    """
    options.check()
    if checkpoint.takes_images and (options.argmax_head or options.sample_head):
        raise CompileError("a model that takes images gets a logits head")
    if checkpoint.takes_images and options.chips > 1:
        raise CompileError(
            f"num-device is {options.chips}, must be 1: a model that takes images runs on one chip"
        )
    if not checkpoint.takes_images and options.images != 1:
        raise CompileError(f"images is {options.images}, but this model takes none")
    if checkpoint.driver and (options.share_tokens or options.positions_tokens):
        raise CompileError(
            f"share-length and positions are not there for {checkpoint.config['model_type']}"
        )
    if options.sharing > 1:
        if checkpoint.driver:
            raise CompileError(f"no tensor-parallel for {checkpoint.config['model_type']}")
        check_shape(checkpoint.config, options.quantize, options.sharing)
    log = work / "compile.log"
    staged, output = work / "checkpoint", work / "nets"
    config = checkpoint.stage(staged, options.quantize)
    check_group_size(config, options.quantize, options.group_size)
    driver = checkpoint.driver or (_BATCHED_DRIVER if options.own_nets else None)
    if options.sharing > 1:
        driver = _SHARED_DRIVER
    if driver:
        job = work / "job.json"
        job.write_text(json.dumps(options.batched_job(staged, output)), encoding="utf-8")
        command = ["python", str(driver), str(job)]
    else:
        command = options.converter_arguments(staged, output)
    environment.run(command, log, work, progress=progress)
    nets = sorted(
        (path for path in output.glob("*/*/*.bmodel") if path.stem == path.parent.name),
        key=lambda path: _combine_order(path.stem),
    )
    if not options.sample_head:
        nets = [path for path in nets if path.stem != "sample_head"]
    if not nets:
        raise CompileError(f"the converter left no nets; its output is in {log}")
    if options.sharing > 1:
        check_split(output, options.sharing)
    bmodels = []
    for chip, group in enumerate(chips.group([NetFile.read(path) for path in nets], options.chips)):
        bmodel = work / f"combined{chip}.bmodel"
        names = [str(path) for path in group]
        environment.run(["model_tool", "--combine", *names, "-o", str(bmodel)], log, work)
        if not options.keep_kernel:
            environment.run(["model_tool", "--kernel_remove", str(bmodel)], log, work)
        bmodels.append(bmodel)
    return bmodels


def embedding_table(work: Path) -> Path | None:
    """What `convert` left of the embedding where it is on disk: [vocab, hidden] in the type of the
    activations, without a header."""
    table = work / "nets" / "config" / "embedding.bin"
    return table if table.is_file() else None


def describe(bmodel: Path, environment: Environment, work: Path) -> str:
    """The compiler's listing of nets, shapes and dtypes."""
    log = work / "info.log"
    environment.run(["model_tool", "--info", str(bmodel)], log, work)
    return log.read_text(errors="replace")


def _combine_order(name: str) -> tuple[int, str, int, int]:
    """Nets by kind and layer; of a net's shape variants the longest (without a number) comes
    first."""
    match = re.fullmatch(r"(block(?:_cache|_kv|_prompt|_unshare)?)_(\d+)(?:_(\d+))?", name)
    if match is None:
        return (0, name, 0, 0)
    return (1, match[1], int(match[2]), int(match[3] or 0))
