"""The vendor's converter with nets that its compiler can split over chips."""

from typing import Any

import numpy as np
from llm.LlmConverter import LlmConverter  # type: ignore[import-not-found]
from llm.LlmInfo import LlmList  # type: ignore[import-not-found]
from mlir.dialects import top  # type: ignore[import-not-found]

_HEAD_WEIGHTS = "lm_head_top_weights.npz"


class TensorParallelConverter(LlmConverter):  # type: ignore[misc]
    """The base class makes nets for several chips, but its compiler splits attention only where
    rope is made of simple operations and the mask is an input; and it leaves the final norm, which
    belongs to lm_head then, without its weight."""

    def use_small_mask(self) -> bool:
        """A mask inside of a net is a weight, which the split of attention does not expect."""
        return False

    def apply_rotary_pos(
        self, module: Any, positions: Any, q: Any, k: Any, cos_name: str, sin_name: str
    ) -> tuple[Any, Any]:
        """q and k, rotated: x · cos + rotated halves of x · sin."""
        count = positions.type.shape[-1]
        tables = []
        for name in (cos_name, sin_name):
            rows = [self.seq_length, 1, self.head_dim]
            weight = module.create_weight_op(name + ".weight", rows)
            tables.append(
                top.GatherOp(
                    module.get_tensor_type([1, count, 1, self.head_dim]),
                    weight,
                    positions,
                    axis=0,
                    loc=self.get_loc(name, module),
                    ip=module.insert_point,
                ).output
            )
        cos, sin = tables
        return (
            self.rotary_pos(module, q, cos, sin, "q_proj"),
            self.rotary_pos(module, k, cos, sin, "k_cache"),
        )

    def gen_embedding_lmhead_mlir(self) -> None:
        super().gen_embedding_lmhead_mlir()
        weights = dict(np.load(_HEAD_WEIGHTS))
        self.set_common_weight(self.model_info.weights[LlmList.NORM], weights, self.rmsnorm_type)
        np.savez(_HEAD_WEIGHTS, **weights)
