"""The vendor's converter with the layers of GPTBigCode (runs inside the compiler's environment)."""

from typing import Any

import numpy as np
from llm.LlmConverter import LlmConverter  # type: ignore[import-not-found]
from llm.LlmInfo import LlmList  # type: ignore[import-not-found]

from compiler.batched.converter import BatchedConverter
from compiler.families.gpt_bigcode_net import (
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
