"""How much device memory loading a bmodel takes.

One runtime context per slot, or one for all slots of a batch. All contexts of a process share the
weights (one copy of each block, told apart by its SHA-256) and the scratch memory of the nets
(which overlaps: the largest counts). Each context has its own instructions and its own memory for
the inputs and outputs of nets in io-alone mode, which holds the KV of its slots and the keys and
values of their images. What the image net gives on the way there is held once.
Checked by counting the runtime's allocations with BM_RUNTIME_SHARE_MEM set: exact for weights,
scratch and io; instructions are an upper bound, since the runtime loads equal ones once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tpuserve.bmodel.language import decode_rows, first_decode
from tpuserve.bmodel.model import Bmodel
from tpuserve.bmodel.older_forms import given_io_bytes, todays_form
from tpuserve.bmodel.vision import describe_vision


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Bytes on each chip; `context_*_bytes` are needed once per context, the others once.

    context_slots: slots of a context. image_bytes: states of one image.
    """

    weights_bytes: int
    neuron_bytes: int
    context_instruction_bytes: int
    context_io_bytes: int
    context_slots: int = 1
    image_bytes: int = 0

    @property
    def context_bytes(self) -> int:
        return self.context_instruction_bytes + self.context_io_bytes

    def shared(self, chips: int) -> MemoryBudget:
        """Of each of several chips that share every layer equally."""
        return replace(
            self,
            weights_bytes=-(-self.weights_bytes // chips),
            context_instruction_bytes=-(-self.context_instruction_bytes // chips),
            context_io_bytes=-(-self.context_io_bytes // chips),
        )

    def total_bytes(self, slots: int) -> int:
        contexts = -(-slots // self.context_slots)
        shared = self.weights_bytes + self.neuron_bytes + self.image_bytes
        return shared + contexts * self.context_bytes


def weight_blocks(bmodel: Bmodel) -> dict[str, int]:
    """Bytes of each block of weights by its SHA-256. A process has one copy of each on a chip, also
    of those that several bmodels have in common."""
    variants = [variant for net in bmodel.nets for variant in net.variants]
    return {v.weights.sha256: v.weights.size_bytes for v in variants if v.weights is not None}


def memory_budget(bmodel: Bmodel) -> MemoryBudget:
    variants = [variant for net in bmodel.nets for variant in net.variants]
    weights = weight_blocks(bmodel)
    vision = describe_vision(bmodel)
    return MemoryBudget(
        weights_bytes=sum(weights.values()),
        neuron_bytes=max(variant.neuron_bytes for variant in variants),
        context_instruction_bytes=sum(variant.instruction_bytes for variant in variants),
        # The variants of one net share one io area.
        context_io_bytes=sum(
            max(variant.io_bytes for variant in net.variants) for net in bmodel.nets if net.io_alone
        )
        + sum(given_io_bytes(net) for net in bmodel.nets)
        + (vision.mask_bytes if vision else 0),
        context_slots=decode_rows(first_decode(todays_form(bmodel))),
        image_bytes=vision.state_bytes if vision else 0,
    )
