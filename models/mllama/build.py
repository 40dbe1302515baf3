"""Compiles the small vision model that tests use: `python -m models.mllama.build`.

Its weights are random and come from a seed (`checkpoint.py`); what it says means nothing. Written
to tests/fixtures/models/mllama, of whose config/ only config.json is made here.
"""

import sys
import tempfile
from pathlib import Path

from compiler.checkpoint import Checkpoint
from compiler.convert import Options, convert
from compiler.environment import Environment, default_environment
from compiler.errors import CompileError
from compiler.model_directory import Layout, write_model_directory
from models.mllama import checkpoint

FIXTURE = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "models" / "mllama"
OPTIONS = Options(
    256,
    history=True,
    chunk_tokens=64,
    keep_kernel=False,
    batch=4,
    lengths_tokens=(64,),
    images=2,
)


def build(environment: Environment) -> Path:
    """Replaces the fixture's bmodel and settings; returns the bmodel's path."""
    with tempfile.TemporaryDirectory(prefix="tpuserve-mllama-") as directory:
        work = Path(directory)
        source = Checkpoint.open(checkpoint.load().write(work / "source"))
        (work / "compile").mkdir()
        bmodel = convert(source, OPTIONS, environment, work / "compile")
        layout = Layout("tpuserve-vision", "vision_f16.bmodel", slots=OPTIONS.batch)
        write_model_directory(FIXTURE, bmodel, source, layout)
    return FIXTURE / layout.bmodel_name


def main() -> int:
    environment = default_environment()
    try:
        environment.prepare()
        bmodel = build(environment)
    except CompileError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{bmodel} {bmodel.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
