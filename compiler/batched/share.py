"""Prefill nets for a shared prefix and for what follows it (run in the compiler's environment).

Inputs   input_states [1, tokens, hidden], position_ids [1, tokens] int32,
         attention_mask [1, 1, tokens, history + tokens] unless the net is dynamic,
         history_k, history_v [1, history, kv_heads, head_dim] where there is a history.
Outputs  output_states [1, tokens, hidden], k_cache, v_cache [1, tokens, kv_heads, head_dim].

A static net attends to all `history` rows; the mask hides those that hold nothing. A dynamic one
takes history and states of any length up to these, and has its causal mask among its weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llm.LlmInfo import LlmList  # type: ignore[import-not-found]

from compiler.batched.layer import LayerParts, Value


@dataclass(frozen=True, slots=True)
class SharePlan:
    """Most tokens of the shared prefix, and of one prefill behind it.

    prompt_names: the nets are block_prompt_<i> and block_<i>, with one embedding net for both,
    instead of block_<i>, block_unshare_<i> and embedding_unshare. mask_input: dynamic nets take
    their mask as static ones do, as in bmodels of 2024.
    """

    share_tokens: int
    unshare_tokens: int
    prompt_names: bool = False
    mask_input: bool = False

    @property
    def added_net(self) -> str:
        """What is there beside block_<i>."""
        return "block_prompt" if self.prompt_names else "block_unshare"

    def build(self, converter: Any, layer: int) -> Iterator[tuple[str, Any]]:
        """Names and modules of the nets that the vendor's converter does not make.

        One at a time: two modules under construction at once crash the vendor's bindings.
        """
        share, rest = self.share_tokens, self.unshare_tokens
        rest_net = f"{'block' if self.prompt_names else 'block_unshare'}_{layer}"
        if self.prompt_names:
            name = f"block_prompt_{layer}"
            yield name, PrefillNet(converter, layer, name, share).build()
        yield (
            rest_net,
            PrefillNet(converter, layer, rest_net, rest, history_tokens=share).build(),
        )


class PrefillNet(LayerParts):
    """Builds a prefill net of one layer."""

    def __init__(
        self, converter: Any, layer: int, name: str, tokens: int, *, history_tokens: int = 0
    ) -> None:
        super().__init__(converter, layer, [1, tokens, converter.hidden_size])
        self._masked = not converter.use_small_mask()
        self._history = bool(history_tokens)
        heads = [converter.num_key_value_heads, converter.head_dim]
        masks = [[1, 1, tokens, history_tokens + tokens]] if self._masked else []
        histories = [[1, history_tokens, *heads]] * 2 if self._history else []
        rows = [1, tokens, *heads]
        inputs = [self._states, [1, tokens], *masks, *histories]
        self._open(name, inputs, [self._states, rows, rows])

    def build(self) -> Any:
        """The finished module; the converter's `save_mlir_module` writes it."""
        states = self._input("input_states", 0)
        positions = self._input("position_ids", 1)
        mask_input = self._input("attention_mask", 2) if self._masked else None
        query, key, value = self._projections(states, positions)
        mask, mask_size = self._converter.get_fattention_mask_op(self._mlir, mask_input)
        keys, values = key, value
        if self._history:
            first = 3 if self._masked else 2
            keys = self._merge(self._input("history_k", first), key, "keys")
            values = self._merge(self._input("history_v", first + 1), value, "values")
        attended = self._attend(query, keys, values, mask, "attention", mask_size=mask_size)
        states = self._add(states, self._project(attended), self._path(LlmList.O_PROJ) + ".add")
        self._mlir.create_return_op([self._mlp(states), key, value])
        return self._mlir

    def _project(self, attended: Value) -> Value:
        width = self._converter.num_attention_heads * self._converter.head_dim
        return self._linear(LlmList.O_PROJ, attended, width, self._converter.hidden_size)
