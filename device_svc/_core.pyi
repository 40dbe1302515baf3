"""Types of the private C++ extension. Nothing here is stable; only `device_svc.engine` imports it.

Every call that reaches a chip releases the GIL. An `Engine` is single-threaded by contract: one
thread at a time, always the same one. All errors derive from `CoreError`.
"""

from collections.abc import Callable, Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

class CoreError(RuntimeError):
    """Base of every error raised by the extension."""

class LibraryError(CoreError):
    """The vendor libraries are missing, of a wrong version or lack a symbol."""

class DeviceError(CoreError):
    """A bmlib call returned a status other than success; the text names call, status and chip."""

class BmodelError(CoreError):
    """The bmodel cannot be read or its nets do not follow a contract that the engine knows."""

class LaunchError(CoreError):
    """A net refused to launch or failed while it ran; the text names net and chip."""

@final
class Library:
    """The vendor runtime (libbmrt and libbmlib), loaded from one directory by dlopen.

    `emulator` calms the busy wait of the chip emulator. Raises LibraryError.
    """

    def __init__(self, directory: str, *, emulator: bool = False) -> None: ...
    @property
    def directory(self) -> str: ...
    @property
    def emulator(self) -> bool: ...
    @property
    def version(self) -> str:
        """What libbmrt reports of itself; empty when it reports nothing."""
    @property
    def decrypts(self) -> bool:
        """Whether it loads bmodels of which the caller decrypts the weights."""
    def chip_count(self) -> int: ...
    @property
    def chip_limit(self) -> int:
        """Chips are numbered below this; the emulator makes as many as are asked for."""
    def chip_status(self, chip: int) -> ChipStatus: ...

@final
class ChipStatus:
    """One chip's readings; None where the driver does not support the reading."""

    @property
    def chip(self) -> int: ...
    @property
    def memory_total_bytes(self) -> int | None: ...
    @property
    def memory_used_bytes(self) -> int | None: ...
    @property
    def utilisation_ratio(self) -> float | None: ...
    @property
    def temperature_celsius(self) -> float | None: ...
    @property
    def power_watts(self) -> float | None: ...
    @property
    def clock_hz(self) -> int | None: ...

@final
class TensorSpec:
    """One input or output of a net's shape variant."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str:
        """numpy-like name: float16, float32, bfloat16, int32 or another integer of 8 to 32 bits."""

@final
class NetSpec:
    @property
    def name(self) -> str: ...
    @property
    def dynamic(self) -> bool: ...
    @property
    def io_alone(self) -> bool: ...
    @property
    def variants(self) -> list[tuple[list[TensorSpec], list[TensorSpec]]]:
        """(inputs, outputs) of every shape variant."""

@final
class VisionSpec:
    """What a model that looks at images takes."""

    @property
    def max_images(self) -> int:
        """Of one sequence."""
    @property
    def max_tiles(self) -> int:
        """Of one image. Aspect ratios are all shapes of as many tiles or fewer, by width and then
        height, numbered from 1."""
    @property
    def tile_tokens(self) -> int:
        """Keys that a tile gives each layer."""
    @property
    def image_size(self) -> int:
        """Pixels of a side of a tile."""
    @property
    def channels(self) -> int: ...
    @property
    def layers(self) -> int:
        """Layers that attend to images, beside those of ModelSpec."""

@final
class ModelSpec:
    """What discovery found in the bmodel; lengths in tokens."""

    @property
    def layers(self) -> int:
        """Layers that attend to text: those with KV rows."""
    @property
    def hidden_size(self) -> int: ...
    @property
    def vocab_size(self) -> int:
        """Width of the logits, 0 when the head returns a token (`head == "argmax"`)."""
    @property
    def embedding_rows(self) -> int:
        """Ids that the embedding knows; 0 when the bmodel does not tell."""
    @property
    def context_length(self) -> int:
        """Most tokens (prompt + completion) that a slot holds."""
    @property
    def max_prompt_length(self) -> int:
        """Longest prompt that prefill takes, in as many calls as needed."""
    @property
    def prefill_chunk(self) -> int:
        """Most tokens of one `Engine.prefill` call at position 0."""
    @property
    def history_chunk(self) -> int:
        """Most tokens of one `Engine.prefill` call at a position above 0; 0 without history."""
    @property
    def max_history(self) -> int:
        """Highest position that prefill may continue at; 0 without history."""
    @property
    def history(self) -> bool:
        """Whether prefill may continue at a position above 0."""
    @property
    def dynamic_prefill(self) -> bool: ...
    @property
    def decode_rows(self) -> int:
        """Slots that one decode launch serves; 1 where each slot has launches of its own."""
    @property
    def decode_variants(self) -> list[tuple[int, int]]:
        """(rows, KV length) of every shape variant of the decode nets, ascending."""
    @property
    def head(self) -> str:
        """'logits' or 'argmax'."""
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def dtype(self) -> str:
        """dtype of hidden states and KV: float16, bfloat16 or float32."""
    @property
    def kv_bytes_per_slot(self) -> int: ...
    @property
    def vision(self) -> VisionSpec | None:
        """None where the model does not look at images."""
    @property
    def features(self) -> list[str]:
        """Sorted names, e.g. 'history', 'batched-decode', 'dynamic-prefill', 'vit'."""
    @property
    def nets(self) -> list[NetSpec]: ...

@final
class EncryptedBmodel:
    """An encrypted bmodel whose weights are decrypted while the runtime loads it.

    name: of the file, for error texts. The file at `path` holds a token in the place of each block
    of weights: 16 bytes `token_prefix` and the block's index, 8 bytes, little endian.
    `read(block, target)` fills target, a writable buffer of block_bytes[block] bytes, from any
    thread; what it raises becomes the BmodelError of the load.
    """

    def __init__(
        self,
        name: str,
        path: str,
        *,
        token_prefix: bytes,
        block_bytes: Sequence[int],
        read: Callable[[int, memoryview], None],
    ) -> None: ...

@final
class Engine:
    """One model resident on one chip group, with `slots` independent sequences.

    bmodels: the model's parts in order, one for each of `chips`: paths, or encrypted ones. Slots
    share the weights; each owns its KV memory. `slots` is at most len(chips) * spec.decode_rows
    when that is above one row. `deterministic` runs every decode step in the largest shape variant,
    so that no bit of a row depends on what else the step computes or on how long the other slots
    are. `embedding`: path of the hidden states of all ids, [ids, hidden] in the model's type, which
    takes the place of embedding nets; empty without. `greedy`: the bmodel's greedy_head draws on
    the chip, so that `spec.head` is "argmax".
    Raises BmodelError when the file is not a bmodel or its nets are unknown, DeviceError when a
    chip cannot be opened, ValueError for arguments out of range (the text names value and limit).
    """

    def __init__(
        self,
        library: Library,
        bmodels: Sequence[str | EncryptedBmodel],
        *,
        chips: Sequence[int] = (0,),
        slots: int = 1,
        deterministic: bool = False,
        embedding: str = "",
        greedy: bool = False,
    ) -> None: ...
    @property
    def spec(self) -> ModelSpec: ...
    @property
    def slots(self) -> int: ...
    @property
    def launches(self) -> int:
        """Nets launched since construction."""
    @property
    def groups(self) -> int:
        """Groups of slots that a decode step runs one behind the other, so that every chip has one.
        Slots n, n + groups, n + 2 * groups … are in one."""
    @property
    def busy_s(self) -> list[float]:
        """Seconds in which each chip had work, in the order of `chips`."""
    def length(self, slot: int) -> int:
        """Tokens whose KV the slot holds."""
    def prefill(
        self, slot: int, ids: NDArray[np.int32], position: int, *, last: bool = True
    ) -> NDArray[np.float32] | NDArray[np.int32] | None:
        """Fill KV rows [position, position + len(ids)) of `slot`.

        ids: [n], 1 <= n <= spec.prefill_chunk, or spec.history_chunk above position 0, each in
        [0, embedding rows). position: 0, or up to length(slot) and spec.max_history; rows above it
        are forgotten. Returns the head's row for the last
        token (float32 [vocab], or int32 [1] for an argmax head), None unless `last`.
        """
    def decode(
        self, slots: Sequence[int], ids: NDArray[np.int32]
    ) -> NDArray[np.float32] | NDArray[np.int32]:
        """One token for each of `slots` (distinct, each with length > 0): float32 [n, vocab], or
        int32 [n] for an argmax head. The token ids[i] is written at row length(slots[i])."""
    def copy_prefix(self, source: int, target: int, tokens: int) -> None:
        """Copy KV rows [0, tokens) between slots; length(target) becomes `tokens`."""
    def save(self, slot: int) -> NDArray[np.uint8]:
        """The slot's KV rows in host memory: [layers, 2 (K, V), length(slot), bytes of a row]."""
    def restore(self, slot: int, data: NDArray[np.uint8], tokens: int) -> None:
        """Put the first `tokens` rows that `save` returned, for any slot of an engine of the same
        bmodel, into the slot; length(slot) becomes `tokens`."""
    def encode_image(
        self, slot: int, index: int, pixels: NDArray[np.float32], aspect_ratio_id: int
    ) -> None:
        """Make pixels image `index` of the slot; index is at most encoded_images(slot).

        pixels: float32 [tiles of the ratio, channels, image_size, image_size]. Images behind it are
        forgotten."""
    def show_images(self, slot: int, positions: Sequence[int]) -> None:
        """What the slot holds and will hold is a text whose image tokens are at `positions`,
        ascending: those of its first encoded images. Text sees an image from its token to the next
        image. Without positions the text has no images; encoded ones stay for later. Prefill and
        decode go by what is shown; copy_prefix takes it along, save and restore do not."""
    def encoded_images(self, slot: int) -> int:
        """Images that are encoded in the slot."""
    def watch(self, slot: int, layers: Sequence[int]) -> None:
        """From now on each prefill and decode of the slot copies the hidden states that the layers,
        ascending, put out to the host; no layers end it."""
    def watched(self, slot: int) -> NDArray[np.uint8]:
        """What the slot's last prefill or decode copied, uint8 [layers, tokens, hidden state]."""
    @property
    def adapter_weights(self) -> dict[str, int]:
        """Weights that an adapter may fill, by the compiler's path, with the bytes of their memory.
        Empty when the bmodel was compiled without adapters."""
    def set_adapter_weight(self, path: str, data: bytes) -> None:
        """Fill one, padded with zeros. Empties all slots: their rows are another model's."""
    def free(self, slot: int) -> None:
        """Forget the slot's tokens."""
    def wipe(self, slot: int) -> None:
        """Forget them and zero all KV rows: NaN among them would spread to what comes next."""
    def close(self) -> None:
        """Release the chips; every later call raises CoreError. Idempotent."""

@final
class SamplingParams:
    """Validated on construction; raises ValueError naming the value and the limit.

    temperature 0 is greedy. top_k 0 and top_p 1.0 and min_p 0.0 are off. Penalties follow the usual
    definitions: repetition divides positive and multiplies negative logits of every token in the
    window of prompt and completion; presence and frequency subtract by completion counts.
    penalty_window 0 is the whole context.
    """

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        penalty_window: int = 0,
        logit_bias: dict[int, float] = ...,
        seed: int = 0,
        logprobs: int = -1,
        banned_until_min_tokens: Sequence[int] = (),
        min_tokens: int = 0,
    ) -> None:
        """logprobs: -1 none, 0 the chosen token's only, n the n best beside it (at most 20).

        `banned_until_min_tokens` (stop ids) get -inf until `min_tokens` tokens are out."""

@final
class Sampled:
    @property
    def token(self) -> int:
        """-1 when the mask leaves no token, or there is an `error`; nothing was appended then."""
    @property
    def error(self) -> str:
        """Why nothing could be drawn, such as logits that hold NaN; empty when there is none."""
    @property
    def logprob(self) -> float | None:
        """log softmax of the model's logits before penalties, bias and temperature."""
    @property
    def top(self) -> list[tuple[int, float]]: ...

@final
class Sampler:
    """The sampling state of one request: parameters plus the tokens seen so far."""

    def __init__(
        self, params: SamplingParams, vocab_size: int, prompt: NDArray[np.int32]
    ) -> None: ...
    def accept(self, token: int) -> None:
        """Append a completion token without sampling (resume)."""
    @property
    def generated(self) -> int: ...

def sample(
    logits: NDArray[np.float32],
    samplers: Sequence[Sampler],
    masks: Sequence[NDArray[np.uint32] | None] = (),
) -> list[Sampled]:
    """Draw one token per row of logits [n, vocab] and append it to its sampler.

    masks: for each row the tokens that it may yield, uint32 [(vocab + 31) // 32], token i at bit
    i % 32 of word i // 32; None for all. Before min_tokens a mask goes before the ban of stop ids.
    A pure function of (row, mask, seed, number of generated tokens): the random number is
    counter-based (Philox4x32-10, key = seed, counter = generated). Rows are read only. Raises
    ValueError on a shape mismatch. A row without a finite maximum, or with NaN (the chip produced
    garbage), gives a Sampled with an `error`; the others are drawn all the same."""
