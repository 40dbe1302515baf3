"""The vendor's converter with batched decode nets (runs inside the compiler's environment)."""

from typing import Any

import numpy as np
from llm.LlmConverter import LlmConverter  # type: ignore[import-not-found]
from llm.LlmInfo import LlmList  # type: ignore[import-not-found]

from compiler.batched import heads
from compiler.batched.decode import DecodeNet
from compiler.batched.ladder import Variant
from compiler.batched.share import SharePlan

_IO_ADDRESSES = "io_alone_config.json"


class BatchedConverter(LlmConverter):  # type: ignore[misc]
    """Prefill nets as the vendor makes them; decode, embedding and head nets for `variants`.

    A net of several shape variants is built in directories NAME (the largest), NAME_1, NAME_2, …
    """

    def __init__(
        self,
        args: Any,
        config: Any,
        *,
        loader: Any,
        variants: tuple[Variant, ...],
        head: str,
        share: SharePlan | None = None,
    ) -> None:
        """head: quantization of lm_head, e.g. f16 or w8f16. share: nets behind a shared prefix."""
        self._share = share
        self._variants = variants
        self._slots = variants[0].rows
        # One row is what prefill needs of the head.
        self._rows = sorted({1, *(variant.rows for variant in variants)}, reverse=True)
        self._head = head
        super().__init__(args, config, loader)
        self.embedding_rows = self.vocab_size
        # The base class makes one-row variants of its own from this list while it generates.
        self.decode_chunk_list: list[Variant] = []

    def use_small_mask(self) -> bool:
        """Whether prefill nets have their mask among the weights."""
        wanted = self._share is None or not self._share.mask_input
        return wanted and bool(super().use_small_mask())

    def gen_block_mlir(self, idx: int) -> None:
        super().gen_block_mlir(idx)
        for number, variant in enumerate(self._variants):
            module = DecodeNet(self, idx, variant, self._slots).build()
            self.save_mlir_module(module, self.directory(f"block_cache_{idx}", number))
        if self._share is not None:
            for name, module in self._share.build(self, idx):
                self.save_mlir_module(module, name)

    def gen_embedding_lmhead_mlir(self) -> None:
        super().gen_embedding_lmhead_mlir()
        self.save_row_nets()

    def save_row_nets(self) -> None:
        """Embedding and head of decode steps; the embedding's table is saved already."""
        tied = self.tie_word_embeddings
        source = self.model_info.weights[LlmList.EMBEDING if tied else LlmList.LMHEAD] + ".weight"
        transposed = np.ascontiguousarray(self.model.read(source).T)
        weights: dict[str, Any] = {heads.head_weight_name(self): transposed}
        np.savez(heads.HEAD_WEIGHTS, **weights)
        for number, rows in enumerate(self._rows):
            if not self.embedding_disk:
                net = heads.embedding_net(self, "embedding_cache", [rows, 1])
                self.save_mlir_module(net, self.directory("embedding_cache", number))
            self.save_mlir_module(heads.logits_net(self, rows), self.directory("lm_head", number))
        if self._share is not None and not self._share.prompt_names:
            ids = [1, self._share.unshare_tokens]
            name = "embedding_unshare"
            self.save_mlir_module(heads.embedding_net(self, name, ids), name)

    def gen_sample_head_mlir(self, *limits: int) -> None:
        """The greedy head alone: sampling for several rows is the host's."""
        for number, rows in enumerate(self._rows):
            self.save_mlir_module(
                heads.greedy_net(self, rows), self.directory("greedy_head", number)
            )

    def compile_common(self, name: str, with_size: bool = False, io_alone: bool = False) -> None:
        variants = len(self._rows) if name == "embedding_cache" else 1
        for number in range(variants):
            super().compile_common(self.directory(name, number), with_size, io_alone)
        if name == "embedding" and self._share is not None and not self._share.prompt_names:
            super().compile_common("embedding_unshare")

    def compile_block(self, layer_id: int) -> None:
        super().compile_block(layer_id)
        if self._share is not None:
            name = f"{self._share.added_net}_{layer_id}"
            self.register_bmodel(name, with_size=False)
            self._deploy_block_phase(name, layer_id)

    def compile_lm_head(self) -> None:
        for number in range(len(self._rows)):
            name = self.directory("lm_head", number)
            self.register_bmodel(name)
            arguments = [f"--quantize {self._head}", f"--q_group_size {self.q_group_size}"]
            self.submit_deploy_task(name, [*arguments, "--quant_input"])

    def compile_greedy_head(self) -> None:
        for number in range(len(self._rows)):
            name = self.directory("greedy_head", number)
            self.register_bmodel(name)
            self.submit_deploy_task(name, multi_device=False, addr_mode="io_alone")

    def compile_sample_head(self) -> None:
        """None: see gen_sample_head_mlir."""

    def compile_block_cache(self, layer_id: int) -> None:
        self._compile_decode(layer_id, 0, [self.saved_addresses()])

    def compile_block_cache_chunk(self, layer_id: int) -> None:
        """The smaller variants, at the addresses that the largest one's compilation wrote down."""
        for number in range(1, len(self._variants)):
            self._compile_decode(layer_id, number, [self.given_addresses(layer_id)])

    @staticmethod
    def saved_addresses() -> str:
        """The option of the largest variant, and of the others of a layer."""
        return f"--save_io_alone_config {_IO_ADDRESSES}"

    @staticmethod
    def given_addresses(layer_id: int) -> str:
        return f"--use_io_alone_config ../block_cache_{layer_id}/{_IO_ADDRESSES}"

    def _compile_decode(self, layer: int, number: int, addresses: list[str]) -> None:
        name = self.directory(f"block_cache_{layer}", number)
        self.register_bmodel(name)
        arguments = [f"--quantize {self.quantize}", f"--q_group_size {self.q_group_size}"]
        arguments += ["--quant_input", "--quant_output", *addresses]
        self.submit_deploy_task(name, arguments, symmetric=self.symmetric, addr_mode="io_alone")

    def compile_all(self) -> None:
        # What makes the base class call compile_block_cache_chunk after the first round.
        self.decode_chunk_list = list(self._variants[1:])
        super().compile_all()

    def combine(self) -> None:
        """Nothing: the caller combines the nets that it wants."""

    @staticmethod
    def directory(net: str, number: int) -> str:
        return net if number == 0 else f"{net}_{number}"
