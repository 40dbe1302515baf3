"""Compiles every bmodel of the demo model from its weights: `python -m models.demo.build [VARIANT
…]`.

The demo itself is written to this directory, the other variants to tests/fixtures/models; all share
models/demo/config. The kernel module of the chip is left out: the emulator and a card's driver
bring
their own.
"""

import argparse
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from compiler.checkpoint import Checkpoint
from compiler.convert import Options, convert, embedding_table
from compiler.environment import Environment, default_environment
from compiler.errors import CompileError
from compiler.model_directory import Layout, write_model_directory

HERE = Path(__file__).resolve().parent
FIXTURES = HERE.parents[1] / "tests" / "fixtures" / "models"
SHARED_CONFIG = "../../../../models/demo/config"


@dataclass(frozen=True, slots=True)
class Variant:
    directory: Path
    layout: Layout
    options: Options


def _fixture(kind: str, bmodel_name: str, options: Options) -> Variant:
    slots = max(2, options.batch, 2 * options.chips if options.chips > 1 else 0)
    layout = Layout(
        f"tpuserve-demo-{kind}",
        bmodel_name,
        slots,
        shared_config=SHARED_CONFIG,
        chips=options.chips,
    )
    return Variant(FIXTURES / kind, layout, options)


def variants() -> dict[str, Variant]:
    """What is built, by name; the fixtures exist so that tests meet every kind of net."""
    chunked = Options(512, history=True, chunk_tokens=64, keep_kernel=False)
    layout = Layout("tpuserve-demo", "demo_f16.bmodel", slots=4, shared_config="config")
    return {
        "demo": Variant(HERE, layout, chunked),
        "static": _fixture(
            "static",
            "demo_f16_static.bmodel",
            Options(seq_tokens=128, max_input_tokens=64, keep_kernel=False),
        ),
        "dynamic": _fixture(
            "dynamic",
            "demo_f16_dynamic.bmodel",
            Options(seq_tokens=512, max_input_tokens=256, dynamic=True, keep_kernel=False),
        ),
        # The nets of "static", but for the embedding's; a sampling net beside them.
        "disk": _fixture(
            "disk",
            "demo_f16_disk.bmodel",
            Options(
                seq_tokens=128,
                max_input_tokens=64,
                embedding_disk=True,
                sample_head=True,
                keep_kernel=False,
            ),
        ),
        # As ChatGLM's bmodels of 2023 were.
        "window": _fixture(
            "window",
            "demo_f16_window.bmodel",
            Options(seq_tokens=64, window=True, keep_kernel=False),
        ),
        # The nets of the demo itself, on two chips.
        "chips2": _fixture("chips2", "demo_f16.bmodel", replace(chunked, chips=2)),
        "argmax": _fixture("argmax", "demo_f16_argmax.bmodel", replace(chunked, argmax_head=True)),
        "bf16": _fixture(
            "bf16",
            "demo_bf16.bmodel",
            Options(256, "bf16", history=True, chunk_tokens=64, keep_kernel=False),
        ),
        "w4f16": _fixture(
            "w4f16",
            "demo_w4f16.bmodel",
            Options(256, "w4f16", history=True, chunk_tokens=64, keep_kernel=False),
        ),
        "batch4": _fixture(
            "batch4",
            "demo_f16_batch4.bmodel",
            Options(
                256,
                history=True,
                chunk_tokens=64,
                keep_kernel=False,
                batch=4,
                lengths_tokens=(32,),
                head="w8f16",
            ),
        ),
        # Equal rotary tables: these two have the same weights, to the bit.
        "share": _fixture(
            "share",
            "demo_f16_share.bmodel",
            Options(
                192,
                share_tokens=64,
                unshare_tokens=32,
                positions_tokens=512,
                keep_kernel=False,
            ),
        ),
        "prompt": _fixture(
            "prompt",
            "demo_f16_prompt.bmodel",
            Options(
                256,
                share_tokens=96,
                unshare_tokens=64,
                positions_tokens=512,
                prompt_names=True,
                keep_kernel=False,
            ),
        ),
    }


def build(variant: Variant, environment: Environment) -> list[Path]:
    """Compile one variant and replace its model directory's files; returns the bmodels' paths."""
    work = Path(tempfile.mkdtemp(prefix="tpuserve-demo-"))
    try:
        source = work / "source"
        source.mkdir()
        (source / "config.json").symlink_to(HERE / "config" / "config.json")
        (source / "model.safetensors").symlink_to(HERE / "weights" / "model.safetensors")
        checkpoint = Checkpoint.open(source)
        (work / "compile").mkdir()
        bmodels = convert(checkpoint, variant.options, environment, work / "compile")
        write_model_directory(
            variant.directory,
            bmodels,
            checkpoint,
            variant.layout,
            embedding=embedding_table(work / "compile"),
        )
    finally:
        shutil.rmtree(work)
    return [variant.directory / name for name in variant.layout.bmodel_names]


def main() -> int:
    known = variants()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variant", nargs="*", help=f"of {', '.join(known)} (default: all)")
    chosen = parser.parse_args().variant or list(known)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        parser.error(f"unknown variant {unknown[0]}; known: {', '.join(known)}")
    environment = default_environment()
    try:
        environment.prepare()
        for name in chosen:
            for bmodel in build(known[name], environment):
                print(f"{name}: {bmodel} {bmodel.stat().st_size / 1e6:.2f} MB", flush=True)
    except CompileError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
