"""`python mllama_driver.py JOB.json`: converts a Llama-3.2-Vision checkpoint.

The job is that of `batched/driver.py`, with `images`: how many a sequence can have.
"""

import json
import sys
from pathlib import Path
from typing import Any

# Run by path, Python looks in this directory first, where modules would shadow others.
del sys.path[0]

import numpy as np  # noqa: E402
import tpu_mlir  # type: ignore[import-not-found] # noqa: E402, F401  (sets the search paths of what follows)
from llm.LlmInfo import (  # type: ignore[import-not-found] # noqa: E402
    COMMON_INFO,
    MLLAMA_INFO,
    LlmList,
    LlmType,
    ModelInfo,
)
from llm.ModelHandle import SafetensorsModelHandle  # type: ignore[import-not-found] # noqa: E402
from llm.transformers_compat import load_auto_config  # type: ignore[import-not-found] # noqa: E402

from compiler.batched import heads  # noqa: E402
from compiler.batched.arguments import arguments_of  # noqa: E402
from compiler.batched.converter import BatchedConverter  # noqa: E402
from compiler.batched.ladder import Variant  # noqa: E402
from compiler.families.mllama_cross import CrossLayer  # noqa: E402
from compiler.families.mllama_vit import VisionNet  # noqa: E402


class MllamaConverter(BatchedConverter):
    """Self-attention layers are Llama's; the vendor's class for this family is not used: its image
    net has a constant for a gate, its prefill takes whole contexts only, and its keys and values of
    images are repeated for every head and computed in every prefill.
    """

    def __init__(self, *args: Any, images: int, **kwargs: Any) -> None:
        self._images = images
        super().__init__(*args, **kwargs)
        self.do_vit = True
        self._cross = frozenset(self.llm_config.cross_attention_layers)

    def load_pretrained(self, config: Any) -> None:
        super().load_pretrained(config)
        # The base class asks for the names of tensors that this family has not.
        names = {**COMMON_INFO.weights, **MLLAMA_INFO.weights}
        self.model_info = ModelInfo(MLLAMA_INFO.config, weights=names)
        self.llm_type = LlmType.LLAMA

    def gen_vit_mlir(self) -> None:
        net = VisionNet(self)
        net.save_weights()
        self.save_mlir_module(net.build(), "vit")

    def gen_block_mlir(self, idx: int) -> None:
        if idx not in self._cross:
            super().gen_block_mlir(idx)
            return
        layer = CrossLayer(self, idx, self._images)
        layer.save_weights()
        self.save_mlir_module(layer.image_net(), f"cross_kv_{idx}")
        self.save_mlir_module(layer.prefill_net(self.max_input_length), f"block_{idx}")
        for number, rows in enumerate(self._decode_rows()):
            module = layer.decode_net(rows, self._slots)
            self.save_mlir_module(module, self.directory(f"block_cache_{idx}", number))

    def gen_embedding_lmhead_mlir(self) -> None:
        """The image token has a row in the embedding and no logit."""
        path = self.model_info.weights[LlmList.EMBEDING] + ".weight"
        table = self.model.read(path)
        self.embedding_rows = table.shape[0]
        if self.embedding_disk:
            self.gen_embedding_bin(table)
        else:
            np.savez(heads.EMBEDDING_WEIGHTS, **{path: table})
            prompt = heads.embedding_net(self, "embedding", [1, self.max_input_length])
            self.save_mlir_module(prompt, "embedding")
        self.save_row_nets()

    def compile_vit(self) -> None:
        """Static, unlike the text: an image always has all of its tiles."""
        self.register_bmodel("vit")
        self.submit_deploy_task(
            "vit", [f"--quantize {self.half_precision_quantize}", "--quant_output"]
        )

    def compile_block(self, layer_id: int) -> None:
        if layer_id not in self._cross:
            super().compile_block(layer_id)
            return
        for name in (f"cross_kv_{layer_id}", f"block_{layer_id}"):
            self._compile_cross(name, [], "basic")

    def compile_block_cache(self, layer_id: int) -> None:
        if layer_id not in self._cross:
            super().compile_block_cache(layer_id)
            return
        self._compile_cross(f"block_cache_{layer_id}", [self.saved_addresses()], "io_alone")

    def compile_block_cache_chunk(self, layer_id: int) -> None:
        if layer_id not in self._cross:
            super().compile_block_cache_chunk(layer_id)
            return
        name = f"block_cache_{layer_id}"
        for number in range(1, len(self._decode_rows())):
            self._compile_cross(
                self.directory(name, number), [self.given_addresses(layer_id)], "io_alone"
            )

    def _compile_cross(self, name: str, addresses: list[str], mode: str) -> None:
        self.register_bmodel(name)
        arguments = [f"--quantize {self.quantize}", f"--q_group_size {self.q_group_size}"]
        arguments += ["--quant_input", "--quant_output", *addresses]
        self.submit_deploy_task(name, arguments, symmetric=self.symmetric, addr_mode=mode)

    def _decode_rows(self) -> list[int]:
        return sorted({variant.rows for variant in self._variants}, reverse=True)


def main() -> int:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    converter = MllamaConverter(
        arguments_of(job),
        load_auto_config(job["checkpoint"], trust_remote_code=False),
        loader=SafetensorsModelHandle(job["checkpoint"]),
        variants=tuple(Variant(rows, length) for rows, length in job["variants"]),
        head=job["head"],
        images=job["images"],
    )
    converter.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
