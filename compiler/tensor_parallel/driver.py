"""`python driver.py JOB.json`: runs the converter for chips that share each layer, inside the
compiler's environment.

The job holds: checkpoint, output (directories); seq, max_input (tokens); quantize, group_size;
dynamic (boolean); sharing (chips).
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
from compiler.tensor_parallel.converter import TensorParallelConverter  # noqa: E402


def main() -> int:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    arguments = arguments_of(job)
    arguments.num_device = job["sharing"]
    converter = TensorParallelConverter(
        arguments,
        load_auto_config(job["checkpoint"], trust_remote_code=False),
        loader=SafetensorsModelHandle(job["checkpoint"]),
    )
    converter.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
