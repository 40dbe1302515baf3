"""`python driver.py JOB.json`: runs the batched converter inside the compiler's environment.

The job holds: checkpoint, output (directories); seq, chunk, max_input (tokens); quantize, head,
group_size; history, dynamic, embedding_disk (booleans); variants ([[rows, length], …], largest
first); share (the fields of `SharePlan`, or null); window (boolean, see `window.py`). `seq` is the
length of the rotary tables.
"""

import json
import sys
from pathlib import Path

# Run by path, Python looks in this directory first, where modules would shadow others.
del sys.path[0]

import tpu_mlir  # type: ignore[import-not-found] # noqa: E402, F401  (sets the search paths of what follows)
from llm.ModelHandle import SafetensorsModelHandle  # type: ignore[import-not-found] # noqa: E402
from llm.transformers_compat import load_auto_config  # type: ignore[import-not-found] # noqa: E402

from compiler.batched.arguments import arguments_of  # noqa: E402
from compiler.batched.converter import BatchedConverter  # noqa: E402
from compiler.batched.ladder import Variant  # noqa: E402
from compiler.batched.share import SharePlan  # noqa: E402
from compiler.batched.window import WindowConverter  # noqa: E402


def main() -> int:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    config = load_auto_config(job["checkpoint"], trust_remote_code=False)
    loader = SafetensorsModelHandle(job["checkpoint"])
    if job["window"]:
        WindowConverter(arguments_of(job), config, loader=loader).run()
        return 0
    converter = BatchedConverter(
        arguments_of(job),
        config,
        loader=loader,
        variants=tuple(Variant(rows, length) for rows, length in job["variants"]),
        head=job["head"],
        share=None if job["share"] is None else SharePlan(**job["share"]),
    )
    converter.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
