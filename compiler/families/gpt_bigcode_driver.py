"""`python gpt_bigcode_driver.py JOB.json`: converts a rewritten GPTBigCode checkpoint.

The job is that of `batched/driver.py`, with `argmax`: lm_head returns the best token.
"""

import json
import sys
from pathlib import Path
from typing import Any

# Run by path, Python looks in this directory first, where modules would shadow others.
del sys.path[0]

import numpy as np  # noqa: E402
import tpu_mlir  # type: ignore[import-not-found] # noqa: E402, F401  (sets the search paths of what follows)
from llm.LlmConverter import LlmConverter  # type: ignore[import-not-found] # noqa: E402
from llm.LlmInfo import LlmList  # type: ignore[import-not-found] # noqa: E402
from llm.ModelHandle import SafetensorsModelHandle  # type: ignore[import-not-found] # noqa: E402
from llm.transformers_compat import load_auto_config  # type: ignore[import-not-found] # noqa: E402

from compiler.batched.arguments import arguments_of  # noqa: E402
from compiler.batched.converter import BatchedConverter  # noqa: E402
from compiler.batched.ladder import Variant  # noqa: E402
from compiler.families.gpt_bigcode_net import (  # noqa: E402
    NO_BIAS,
    NO_POSITIONS,
    POSITIONS,
    BatchedLayerNet,
    LayerNet,
    Shape,
)

_NORMS = (LlmList.INPUT_LN, LlmList.POST_ATTN_LN)
_PROJECTIONS = (
    LlmList.Q_PROJ,
    LlmList.K_PROJ,
    LlmList.V_PROJ,
    LlmList.O_PROJ,
    LlmList.MLP_UP,
    LlmList.MLP_DOWN,
)


class GptBigCodeConverter(LlmConverter):  # type: ignore[misc]
    """The vendor's converter with this family's layers."""

    def rotary_embedding(self) -> tuple[None, None]:
        """No tables: positions are learned embeddings."""
        return None, None

    def gen_block_mlir(self, idx: int) -> None:
        self.save_weights(idx)
        self.save_prefill(idx)
        self.save_decode(idx)

    def save_prefill(self, layer: int) -> None:
        prefill = self.max_input_length
        self._save(layer, f"block_{layer}", Shape(prefill))
        if self.use_history_kv:
            self._save(layer, f"block_kv_{layer}", Shape(prefill, self.seq_length))

    def save_decode(self, layer: int) -> None:
        for number, length in enumerate((self.seq_length, *self.decode_chunk_list)):
            self._save(layer, f"block_cache_{layer}", Shape(1, length, decode=True), number)

    def _save(self, layer: int, net: str, shape: Shape, number: int = 0) -> None:
        module = LayerNet(self, layer, net, shape).build()
        self.save_mlir_module(module, _directory(net, number))

    def save_weights(self, layer: int) -> None:
        names = self.model_info.weights
        prefix = f"{names[LlmList.LAYERS]}.{layer}."
        weights: dict[str, Any] = {}
        for norm in _NORMS:
            self.set_common_weight(prefix + names[norm], weights)
        for projection in _PROJECTIONS:
            self.set_linear_weight(prefix + names[projection], weights)
        if layer == 0:
            table = self.model.read(f"{POSITIONS}.weight")[: self.seq_length]
            weights[f"{POSITIONS}.weight"] = table
        else:
            weights[f"{NO_POSITIONS}.weight"] = np.zeros((self.seq_length, 1), np.float32)
        if layer == self.num_layers - 1:
            self.set_common_weight(names[LlmList.NORM], weights)
            weights[f"{NO_BIAS}.bias"] = np.zeros(self.hidden_size, np.float32)
        self.save_small_attn_mask_weight(weights)
        np.savez(f"block_{layer}_top_weights.npz", **weights)


class SlotsConverter(GptBigCodeConverter, BatchedConverter):
    """Decode nets for several slots."""

    def save_decode(self, layer: int) -> None:
        for number, variant in enumerate(self._variants):
            module = BatchedLayerNet(self, layer, variant, self._slots).build()
            self.save_mlir_module(module, _directory(f"block_cache_{layer}", number))


def _directory(net: str, number: int) -> str:
    return net if number == 0 else f"{net}_{number}"


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
