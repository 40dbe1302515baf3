"""What the vendor's command line would have parsed, for our own programs that run its converter."""

import argparse
from typing import Any


def arguments_of(job: dict[str, Any]) -> argparse.Namespace:
    """`job` is that of `driver.py`."""
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
