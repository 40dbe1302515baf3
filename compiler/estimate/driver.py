"""`python driver.py JOB.json`: compiles one layer and the head of a model from random weights.

Runs inside the compiler's environment. The job holds: output (directory); config and shapes (of the
layer); seq, chunk (tokens); rows (decode variants, most first); quantize, head, group_size; jobs.
Every net is left in a directory of its name.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

# Run by path, Python looks in this directory first, where modules would shadow others.
del sys.path[0]

import numpy as np  # noqa: E402
import tpu_mlir  # type: ignore[import-not-found] # noqa: E402, F401  (sets search paths)
from llm.ModelHandle import SafetensorsModelHandle  # type: ignore[import-not-found] # noqa: E402
from llm.transformers_compat import Config  # type: ignore[import-not-found] # noqa: E402

from compiler.batched.arguments import arguments_of  # noqa: E402
from compiler.batched.converter import BatchedConverter  # noqa: E402
from compiler.batched.ladder import Variant  # noqa: E402
from compiler.families.gpt_bigcode_converter import SlotsConverter  # noqa: E402

_TILE_ELEMENTS = 1 << 20


class RandomWeights(SafetensorsModelHandle):  # type: ignore[misc]
    """Answers for a checkpoint with random values; the cycle model does not look at them."""

    def __init__(self, shapes: dict[str, list[int]]) -> None:
        self._shapes = shapes
        self.model = self
        generator = np.random.default_rng(0)
        self._tile = generator.normal(scale=0.02, size=_TILE_ELEMENTS).astype(np.float32)

    def is_exist(self, key: str) -> bool:
        return key in self._shapes

    def read(self, key: str) -> Any:
        return np.resize(self._tile, self._shapes[key])

    def gen_config(self, conv: Any) -> None:
        """Nothing to copy: there is no checkpoint."""


class LayerConverter(BatchedConverter):
    """Compiles layer 0, static prefill with and without history included, and the head."""

    def gen_all_mlir(self) -> None:
        self.gen_block_mlir(0)
        self.gen_embedding_lmhead_mlir()
        self.gen_sample_head_mlir()

    def compile_all(self) -> None:
        self.compile_block(0)
        self.compile_block_kv(0)
        self.compile_block_cache(0)
        self.compile_lm_head()
        self.compile_greedy_head()
        self.execute_tasks()
        if len(self._variants) > 1:
            self.compile_block_cache_chunk(0)
            self.execute_tasks()


class PlainLayerConverter(LayerConverter, SlotsConverter):
    """Of GPTBigCode."""


def main() -> int:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    output = Path(job["output"])
    job |= {"checkpoint": str(output), "dynamic": False, "max_input": job["chunk"]}
    # A chunk of the whole context has nothing before it.
    job["history"] = job["chunk"] < job["seq"]
    arguments = arguments_of(job)
    # History implies dynamic prefill, but only static nets leave a profile.
    arguments.dynamic = False
    plain = job["config"]["model_type"] == "gpt_bigcode"
    converter = (PlainLayerConverter if plain else LayerConverter)(
        arguments,
        Config(job["config"]),
        loader=RandomWeights(job["shapes"]),
        variants=tuple(Variant(rows, job["seq"]) for rows in job["rows"]),
        head=job["head"],
    )
    converter.max_workers = job["jobs"]
    # One flat directory: the caller knows where each net is.
    converter.bmodel_dir = str(output)
    os.makedirs(output, exist_ok=True)
    converter.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
