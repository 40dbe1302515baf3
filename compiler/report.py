"""What a user is told at the end of a compilation, good or bad."""

from fnmatch import fnmatch
from pathlib import Path

from compiler.model_directory import EMBEDDING_NAME, Layout
from tpuserve import model_dir

LOG_NAME = "compile.log"
# One of them is what the tokenizer service reads.
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "*.tiktoken", "vocab.json")


def written(directory: Path, layout: Layout) -> str:
    """What was written to the model directory, and how to serve it."""
    loaded = model_dir.load(directory)
    lines = [f"wrote {directory}:"]
    for name in (*layout.bmodel_names, EMBEDDING_NAME):
        if (directory / name).is_file():
            lines.append(f"  {name:30} {(directory / name).stat().st_size / 1e6:,.2f} MB")
    names = sorted(path.name for path in loaded.config.iterdir())
    lines.append(f"  {layout.shared_config or 'config'}/: {', '.join(names)}")
    if not any(fnmatch(name, pattern) for name in names for pattern in _TOKENIZERS):
        lines.append(f"note: the checkpoint has no tokenizer; put its files into {loaded.config}")
    return "\n".join([*lines, f"serve it: tpuserve up --model {directory}"])


def keep_log(work: Path, directory: Path) -> Path:
    """Gathers everything that the vendor's programs printed in `directory`/compile.log."""
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / LOG_NAME
    with target.open("wb") as out:
        for log in (work / LOG_NAME, *sorted(work.glob("nets/*/*.log"))):
            if log.is_file():
                out.write(f"== {log.name}\n".encode() + log.read_bytes() + b"\n")
    return target.resolve()
