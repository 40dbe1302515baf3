"""Nets as the ChatGLM bmodels of 2023 have them (run in the compiler's environment).

embedding            two shape variants: ids [tokens] and [1] to states [tokens, hidden]
glm_block_<i>        input_states [tokens, 1, hidden], position_ids [1, tokens] int32,
                     attention_mask [1, 1, tokens, tokens]
                     to output_states [tokens, 1, hidden], k, v [tokens, 1, kv_heads, head_dim]
glm_block_cache_<i>  input_states [1, 1, hidden], position_ids [1, 1] int32,
                     attention_mask [1, 1, 1, tokens + 1], past_k, past_v [tokens, 1, kv_heads,
                     head_dim] to output_states and the window of K and V one row further on:
                     its last row is the new one
lm_head              hidden_states [1, hidden] to logits [1, vocab]

All of it is float32 outside of the nets; a mask is 1 where nothing is to be seen. No memory is a
net's own.
"""

from typing import Any

from llm.LlmConverter import LlmConverter  # type: ignore[import-not-found]
from llm.LlmInfo import LlmList  # type: ignore[import-not-found]
from mlir.dialects import top  # type: ignore[import-not-found]

from compiler.batched import heads
from compiler.batched.layer import LayerParts, Value

_HIDDEN = -10000.0


class WindowConverter(LlmConverter):  # type: ignore[misc]
    """The vendor's converter with these nets in place of its own."""

    def __init__(self, args: Any, config: Any, *, loader: Any) -> None:
        super().__init__(args, config, loader)
        self.embedding_rows = self.vocab_size
        self._tokens = self.seq_length

    def gen_block_mlir(self, idx: int) -> None:
        super().gen_block_mlir(idx)
        for name, tokens, history in (
            (f"glm_block_{idx}", self._tokens, 0),
            (f"glm_block_cache_{idx}", 1, self._tokens),
        ):
            self.save_mlir_module(WindowNet(self, idx, name, tokens, history).build(), name)

    def gen_embedding_lmhead_mlir(self) -> None:
        super().gen_embedding_lmhead_mlir()
        for directory, tokens in (("embedding", self._tokens), ("embedding_1", 1)):
            self.save_mlir_module(heads.embedding_net(self, "embedding", [tokens]), directory)

    def gen_sample_head_mlir(self, *limits: int) -> None:
        """None: the host draws."""

    def compile_common(self, name: str, with_size: bool = False, io_alone: bool = False) -> None:
        if name == "embedding":
            self._compile("embedding", self.half_precision_quantize)
            self._compile("embedding_1", self.half_precision_quantize)

    def compile_lm_head(self) -> None:
        self._compile("lm_head", self.half_precision_quantize)

    def compile_greedy_head(self) -> None:
        """None: see gen_sample_head_mlir."""

    def compile_sample_head(self) -> None:
        """None: see gen_sample_head_mlir."""

    def compile_block(self, layer_id: int) -> None:
        self._compile(f"glm_block_{layer_id}", self.quantize)

    def compile_block_cache(self, layer_id: int) -> None:
        self._compile(f"glm_block_cache_{layer_id}", self.quantize)

    def _compile(self, name: str, quantize: str) -> None:
        self.register_bmodel(name)
        self.submit_deploy_task(
            name, [f"--quantize {quantize}", f"--q_group_size {self.q_group_size}"]
        )

    def combine(self) -> None:
        """Nothing: the caller combines the nets that it wants."""


class WindowNet(LayerParts):
    """A layer over `tokens` tokens behind a window of `history` rows, 0 for none."""

    def __init__(self, converter: Any, layer: int, name: str, tokens: int, history: int) -> None:
        super().__init__(converter, layer, [1, tokens, converter.hidden_size])
        heads_shape = [converter.num_key_value_heads, converter.head_dim]
        self._length_first = [tokens, 1, converter.hidden_size]
        self._mask = [1, 1, tokens, history + tokens]
        self._history = [1, history, *heads_shape]
        self._window = [history or tokens, 1, *heads_shape]
        windows = [self._window] * 2 if history else []
        self._behind = bool(windows)
        self._open(
            name,
            [self._length_first, [1, tokens], self._mask, *windows],
            [self._length_first, self._window, self._window],
        )

    def build(self) -> Any:
        """The finished module; the converter's `save_mlir_module` writes it."""
        states = self._shaped(self._input("input_states", 0), self._states, "states_by_token")
        positions = self._input("position_ids", 1)
        mask = self._hiding(self._input("attention_mask", 2))
        keys, values = [], []
        if self._behind:
            keys = [self._shaped(self._input("past_k", 3), self._history, "history_k")]
            values = [self._shaped(self._input("past_v", 4), self._history, "history_v")]
        query, key, value = self._projections(states, positions)
        all_keys, all_values = (
            self._all([*keys, key], "keys"),
            self._all([*values, value], "values"),
        )
        attended = self._attend(query, all_keys, all_values, mask, "attention")
        width = self._converter.num_attention_heads * self._converter.head_dim
        attended = self._linear(LlmList.O_PROJ, attended, width, self._converter.hidden_size)
        states = self._add(states, attended, self._path(LlmList.O_PROJ) + ".add")
        windows = [
            self._shaped(self._last(rows, name), self._window, f"{name}_window")
            for rows, name in ((all_keys, "k"), (all_values, "v"))
        ]
        states = self._shaped(self._mlp(states), self._length_first, "states_out")
        self._mlir.create_return_op([states, *windows])
        return self._mlir

    def _row_name(self, tensor: str) -> str:
        return f"new_{tensor}"

    def _hiding(self, mask: Value) -> Value:
        out = self._type(self._mask)
        return top.MulConstOp(out, mask, const_val=_HIDDEN, **self._at("mask")).output

    def _shaped(self, value: Value, shape: list[int], name: str) -> Value:
        return top.ReshapeOp(self._type(shape), value, shape=shape, **self._at(name)).output

    def _all(self, rows: list[Value], name: str) -> Value:
        if len(rows) == 1:
            return rows[0]
        shape = list(self._history)
        shape[1] += 1
        return top.ConcatOp(self._type(shape), rows, axis=1, **self._at(name)).output

    def _last(self, rows: Value, name: str) -> Value:
        """Without the oldest row of a window that has got a new one."""
        if not self._behind:
            return rows
        none = self._mlir.none_op
        return top.SliceOp(
            self._type(self._history),
            rows,
            none,
            none,
            none,
            offset=[0, 1, 0, 0],
            steps=[1] * 4,
            ends=list(rows.type.shape),
            axes=[],
            **self._at(f"{name}_last"),
        ).output
