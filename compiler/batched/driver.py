"""`python driver.py JOB.json`: runs the batched converter inside the compiler's environment.

The job holds: checkpoint, output (directories); seq, chunk, max_input (tokens); quantize, head,
group_size; history, dynamic, embedding_disk (booleans); variants ([[rows, length], …], largest
first); share (the fields of `SharePlan`, or null). `seq` is the length of the rotary tables.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

# Run by path, Python looks in this directory first, where modules would shadow others.
del sys.path[0]

import tpu_mlir  # type: ignore[import-not-found] # noqa: E402, F401  (sets the search paths of what follows)
from llm.ModelHandle import SafetensorsModelHandle  # type: ignore[import-not-found] # noqa: E402
from llm.transformers_compat import load_auto_config  # type: ignore[import-not-found] # noqa: E402

from compiler.batched.converter import BatchedConverter  # noqa: E402
from compiler.batched.ladder import Variant  # noqa: E402
from compiler.batched.share import SharePlan  # noqa: E402


def arguments_of(job: dict[str, Any]) -> argparse.Namespace:
    """What the vendor's command line would have parsed."""
    return argparse.Namespace(
        model_path=job["checkpoint"],
        out_dir=job["output"],
        seq_length=job["seq"],
        max_input_length=job["chunk"] if job["history"] else job["max_input"],
        chunk_length=0,  # decode variants come from the job
        quantize=job["quantize"],
        q_group_size=job["group_size"],
        symmetric=False,
        chip="bm1684x",
        num_device=1,
        num_core=0,
        # One row as far as the base class is concerned: its own form for several writes no KV.
        batch=1,
        lora_max_rank=0,
        embedding_disk=job.get("embedding_disk", False),
        do_sample=True,
        use_history_kv=job["history"],
        dynamic=job["dynamic"] or job["history"],
        debug=False,
        only_mlir=False,
        again=False,
    )


def main() -> int:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    converter = BatchedConverter(
        arguments_of(job),
        load_auto_config(job["checkpoint"], trust_remote_code=False),
        loader=SafetensorsModelHandle(job["checkpoint"]),
        variants=tuple(Variant(rows, length) for rows, length in job["variants"]),
        head=job["head"],
        share=None if job["share"] is None else SharePlan(**job["share"]),
    )
    converter.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
