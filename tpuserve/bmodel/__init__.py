"""What a bmodel file says about itself, read without a chip and without the vendor's runtime."""

from tpuserve.bmodel.kv_identity import KvIdentity, kv_identity
from tpuserve.bmodel.language import LanguageModel, describe
from tpuserve.bmodel.memory import MemoryBudget, memory_budget, weight_blocks
from tpuserve.bmodel.model import Bmodel, Net, Tensor, Variant, Weights, joined
from tpuserve.bmodel.reader import BmodelFileError, parse, read
from tpuserve.bmodel.vision import VisionModel

__all__ = [
    "Bmodel",
    "BmodelFileError",
    "KvIdentity",
    "LanguageModel",
    "MemoryBudget",
    "Net",
    "Tensor",
    "Variant",
    "VisionModel",
    "Weights",
    "describe",
    "joined",
    "kv_identity",
    "memory_budget",
    "parse",
    "read",
    "weight_blocks",
]
