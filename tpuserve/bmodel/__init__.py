"""What a bmodel file says about itself, read without a chip and without the vendor's runtime."""

from tpuserve.bmodel.language import LanguageModel, describe
from tpuserve.bmodel.memory import MemoryBudget, memory_budget
from tpuserve.bmodel.model import Bmodel, Net, Tensor, Variant, Weights, joined
from tpuserve.bmodel.reader import BmodelFileError, parse, read

__all__ = [
    "Bmodel",
    "BmodelFileError",
    "LanguageModel",
    "MemoryBudget",
    "Net",
    "Tensor",
    "Variant",
    "Weights",
    "describe",
    "joined",
    "memory_budget",
    "parse",
    "read",
]
