"""Which language model the nets of a bmodel make up, found from names, shapes and dtypes."""

from __future__ import annotations

from dataclasses import dataclass

from tpuserve.bmodel.model import Bmodel, Net, Tensor, Variant
from tpuserve.bmodel.older_forms import puts_out_windows, todays_form
from tpuserve.bmodel.vision import VisionModel, describe_vision, image_layers


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """Lengths in tokens. `vocab_size` is 0 when an argmax head hides it.

    layers: those that attend to text. vision: None for a model that reads text only. decode_rows:
    sequences that one decode launch serves. history_chunk_tokens: most tokens of one prefill behind
    rows that a slot holds, 0 without such nets.
    """

    layers: int
    hidden_size: int
    vocab_size: int
    context_length: int
    max_prompt_length: int
    prefill_chunk_tokens: int
    history_chunk_tokens: int
    decode_rows: int
    decode_lengths: tuple[int, ...]
    kv_heads: int
    head_dim: int
    dtype: str
    kv_bytes_per_token: int
    features: tuple[str, ...]
    vision: VisionModel | None = None

    @property
    def kv_bytes_per_slot(self) -> int:
        return self.kv_bytes_per_token * self.context_length


def describe(bmodel: Bmodel) -> LanguageModel | None:
    """None when the nets are not the `block_i` / `block_cache_i` set of a language model, or an
    older form of it."""
    window = puts_out_windows(bmodel)
    bmodel = todays_form(bmodel)
    layers = 0
    while bmodel.net(f"block_{layers}") and bmodel.net(f"block_cache_{layers}"):
        layers += 1
    # A shared prefix has nets of its own in one of the two namings that there are.
    prefill = bmodel.net("block_prompt_0") or bmodel.net("block_0")
    decode = bmodel.net("block_cache_0")
    if prefill is None or decode is None:
        return None
    states, history = _input(prefill.variants[0], 0), _input(decode.variants[0], -2)
    if states is None or history is None or len(states.shape) != 3 or len(history.shape) != 4:
        return None
    lengths = {
        key.shape[1]
        for variant in decode.variants
        if (key := _input(variant, -2)) is not None and len(key.shape) == 4
    }
    context, chunk = max(lengths), states.shape[1]
    later_tokens, max_history = _history_of(_history_net(bmodel))
    _, _, kv_heads, head_dim = history.shape
    kv = sum(_kv_bytes_per_token(bmodel.net(f"block_cache_{layer}")) for layer in range(layers))
    head = bmodel.net("lm_head")
    logits = None if head is None else next(iter(head.variants[0].outputs), None)
    is_argmax = logits is not None and logits.dtype == "int32"
    return LanguageModel(
        layers=layers - len(image_layers(bmodel)),
        hidden_size=states.shape[2],
        vocab_size=_width(logits) if logits is not None and not is_argmax else 0,
        context_length=context,
        max_prompt_length=min(max(chunk, max_history + later_tokens), context - 1),
        prefill_chunk_tokens=min(chunk, context - 1),
        history_chunk_tokens=later_tokens,
        decode_rows=decode_rows(decode),
        decode_lengths=tuple(sorted(lengths, reverse=True)),
        kv_heads=kv_heads,
        head_dim=head_dim,
        dtype=history.dtype,
        kv_bytes_per_token=kv,
        features=_features(
            bmodel,
            prefill,
            is_argmax=is_argmax,
            variants=len(decode.variants),
            window=window,
        ),
        vision=describe_vision(bmodel),
    )


def _history_net(bmodel: Bmodel) -> Net | None:
    """What prefills behind rows that a slot holds."""
    if bmodel.net("block_prompt_0") is not None:
        return bmodel.net("block_0")
    return bmodel.net("block_unshare_0") or bmodel.net("block_kv_0")


def _history_of(net: Net | None) -> tuple[int, int]:
    """Most tokens of its launches, and most rows before them; K and V are its last inputs."""
    if net is None:
        return 0, 0
    states, history = _input(net.variants[0], 0), _input(net.variants[0], -2)
    if states is None or history is None or len(states.shape) != 3 or len(history.shape) != 4:
        return 0, 0
    return states.shape[1], history.shape[1]


def decode_rows(net: Net | None) -> int:
    """Sequences in one launch of a `block_cache_*`: each has a k and a v after three inputs."""
    inputs = 0 if net is None else len(net.variants[0].inputs)
    return max(1, (inputs - 3) // 2)


def first_decode(bmodel: Bmodel) -> Net | None:
    """The decode net of the first layer that the bmodel has: a part of a model begins with any."""
    return next((net for net in bmodel.nets if net.name.startswith("block_cache_")), None)


def _features(
    bmodel: Bmodel, prefill: Net, *, is_argmax: bool, variants: int, window: bool
) -> tuple[str, ...]:
    found = {"argmax-head" if is_argmax else "logits"}
    if window:
        found.add("kv-window")
    if prefill.dynamic:
        found.add("dynamic-prefill")
    if variants > 1:
        found.add("decode-variants")
    if decode_rows(bmodel.net("block_cache_0")) > 1:
        found.add("batched-decode")
    if bmodel.net("embedding") is None:
        found.add("embedding-disk")
    if _history_net(bmodel) is not None:
        found.add("history")
    for net, feature in (
        ("greedy_head", "greedy-head"),
        ("sample_head", "sample-head"),
        ("penalty_sample_head", "penalty-sample-head"),
        ("block_unshare_0", "shared-prefix"),
        ("block_prompt_0", "shared-prefix"),
        ("vit", "vit"),
    ):
        if bmodel.net(net) is not None:
            found.add(feature)
    if image_layers(bmodel):
        found.add("vision")
    return tuple(sorted(found))


def _kv_bytes_per_token(net: Net | None) -> int:
    """Both rows that a decode step adds: K and V of one token."""
    if net is None:
        return 0
    return sum(tensor.size_bytes for tensor in net.variants[0].outputs[1:3])


def _width(tensor: Tensor) -> int:
    return tensor.shape[-1] if tensor.shape else 0


def _input(variant: Variant, index: int) -> Tensor | None:
    """None where the variant has fewer inputs than any layer of a language model."""
    return variant.inputs[index] if len(variant.inputs) >= 2 else None
