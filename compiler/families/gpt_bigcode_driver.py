"""`python gpt_bigcode_driver.py JOB.json`: converts a rewritten GPTBigCode checkpoint.

The job is that of `batched/driver.py`, with `argmax`: lm_head returns the best token.
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
from compiler.batched.ladder import Variant  # noqa: E402
from compiler.families.gpt_bigcode_converter import (  # noqa: E402
    GptBigCodeConverter,
    SlotsConverter,
)


def main() -> int:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    arguments = arguments_of(job)
    config = load_auto_config(job["checkpoint"], trust_remote_code=False)
    loader = SafetensorsModelHandle(job["checkpoint"])
    variants = tuple(Variant(rows, length) for rows, length in job["variants"])
    if variants[0].rows == 1:
        arguments.chunk_length = job["chunk"]
        arguments.do_sample = not job["argmax"]
        converter = GptBigCodeConverter(arguments, config, loader)
    else:
        converter = SlotsConverter(
            arguments, config, loader=loader, variants=variants, head=job["head"]
        )
    converter.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
