"""`tpuserve compile HF_DIR -o MODEL_DIR --seq N`: a checkpoint becomes a model directory.

With --estimate nothing is written: HF_DIR needs no more than a config.json, and what the model
would do on the chip is printed. The vendor's compiler runs in a Python 3.10 environment of its own,
made on first use; intermediate files, several times the checkpoint's size, go to TMPDIR.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from compiler.checkpoint import Checkpoint
from compiler.convert import QUANTIZATIONS, Options, convert, describe, embedding_table
from compiler.environment import default_environment
from compiler.errors import CompileError
from compiler.estimate.command import estimate, plan_of
from compiler.model_directory import Layout, write_model_directory
from compiler.progress import Progress
from compiler.report import keep_log, written


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tpuserve compile", description=__doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, help="directory with config.json, weights and tokenizer")
    add("-o", "--output", type=Path, help="the model directory to write")
    add("--seq", type=int, required=True, help="context length in tokens")
    add("--quantize", choices=QUANTIZATIONS, default="f16")
    add("--group-size", type=int, default=64, help="weights that share a scale, for w4")
    add("--history", action="store_true", help="prefill can continue behind resident KV")
    add("--chunk", type=int, default=0, help="prefill chunk and shortest decode variant, in tokens")
    add("--dynamic", action="store_true", help="prefill costs what the prompt is long")
    add("--max-input", type=int, default=0, help="longest prefill in tokens (default: seq)")
    add("--argmax-head", action="store_true", help="lm_head returns the best token, not logits")
    add("--sample-head", action="store_true", help="add the vendor's sampling net")
    add("--batch", type=int, default=1, help="slots that one decode launch serves, 1 to 32")
    add(
        "--lengths",
        type=int,
        nargs="+",
        default=(),
        help="decode lengths besides seq, with --batch",
    )
    add("--head", default="", choices=("", *QUANTIZATIONS), help="lm_head's own, with --batch")
    add(
        "--embedding-disk",
        action="store_true",
        help="embedding table as a file beside the bmodel, looked up by the host",
    )
    add("--num-device", type=int, default=1, help="chips to spread the layers over, 1 to 8")
    add("--tensor-parallel", type=int, default=1, help="chips that share each layer: 1, 2 or 4")
    add("--chip", choices=("bm1684x",), default="bm1684x")
    add("--images", type=int, default=1, help="how many a sequence can have, for vision models")
    add("--share-length", type=int, default=0, help="longest shared prefix that is prefilled once")
    add("--unshare-length", type=int, default=0, help="longest prefill behind a shared prefix")
    add("--prompt-names", action="store_true", help="name these nets block_prompt_<i>, block_<i>")
    add("--mask-input", action="store_true", help="masks of these are inputs, dynamic or not")
    add(
        "--positions",
        type=int,
        default=0,
        help="rows of the rotary tables (default: seq); bmodels that agree share their weights",
    )
    add("--remove-kernel", action="store_true", help="leave the chip's kernel module out (-5.6 MB)")
    add("--name", help="the model's name (default: the output directory's)")
    add("--bmodel-name", help="file name of the bmodel (default: NAME_QUANTIZE.bmodel)")
    add(
        "--slots",
        type=int,
        default=0,
        help="resident sequences (default: batch times chips, else 4)",
    )
    add("--shared-config", help="existing config directory, relative to the model directory")
    add("--info", action="store_true", help="print nets, shapes and dtypes at the end")
    add("--keep-work", action="store_true", help="keep the intermediate files, and say where")
    add("--estimate", action="store_true", help="print predicted speed and memory, write nothing")
    parsed = parser.parse_args(arguments)
    if parsed.output is None and not parsed.estimate:
        parser.error("the following arguments are required: -o/--output")
    return parsed


def options_of(args: argparse.Namespace) -> Options:
    return Options(
        seq_tokens=args.seq,
        quantize=args.quantize,
        group_size=args.group_size,
        history=args.history,
        chunk_tokens=args.chunk,
        dynamic=args.dynamic,
        max_input_tokens=args.max_input,
        argmax_head=args.argmax_head,
        sample_head=args.sample_head,
        keep_kernel=not args.remove_kernel,
        batch=args.batch,
        lengths_tokens=tuple(args.lengths),
        head=args.head,
        images=args.images,
        embedding_disk=args.embedding_disk,
        share_tokens=args.share_length,
        unshare_tokens=args.unshare_length,
        prompt_names=args.prompt_names,
        mask_input=args.mask_input,
        positions_tokens=args.positions,
        chips=args.num_device,
        sharing=args.tensor_parallel,
    )


def default_slots(options: Options) -> int:
    """A batch for each chip, so that all of them can work; else four requests, or two a chip."""
    return options.batch * options.chips if options.batch > 1 else max(4, 2 * options.chips)


def compile_model(args: argparse.Namespace) -> None:
    """Everything the command does; raises CompileError."""
    start_s = time.monotonic()
    options = options_of(args)
    options.check()
    checkpoint = Checkpoint.open(args.checkpoint)
    checkpoint.check(options.seq_tokens, options.quantize)
    environment = default_environment()
    environment.prepare()
    name = args.name or args.output.resolve().name
    layout = Layout(
        name=name,
        bmodel_name=args.bmodel_name or f"{name}_{args.quantize}.bmodel",
        slots=args.slots or default_slots(options),
        shared_config=args.shared_config,
        chips=options.chips,
        sharing=options.sharing,
    )
    work = Path(tempfile.mkdtemp(prefix="tpuserve-compile-"))
    progress = Progress(work / "events.jsonl", sys.stderr)
    try:
        bmodels = convert(checkpoint, options, environment, work, progress=progress)
        write_model_directory(
            args.output, bmodels, checkpoint, layout, embedding=embedding_table(work)
        )
        if args.info:
            for name in layout.bmodel_names:
                print(describe(args.output.resolve() / name, environment, work))
    except CompileError as error:
        kept = keep_log(work, args.output)
        raise CompileError(f"{error}\nthe whole log is {kept}") from error
    finally:
        if args.keep_work:
            print(f"intermediate files are in {work}")
        else:
            shutil.rmtree(work)
    print(f"compiled {progress.done} nets in {time.monotonic() - start_s:.0f} s")
    print(written(args.output, layout))


def main(arguments: list[str] | None = None) -> int:
    args = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        if args.estimate:
            environment = default_environment()
            environment.prepare()
            print(estimate(args.checkpoint, plan_of(options_of(args)), environment))
        else:
            compile_model(args)
    except CompileError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _stop(number: int, _frame: object) -> None:
    """Ends what runs, as an interrupt does, instead of leaving it behind."""
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(main())
