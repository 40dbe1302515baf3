"""The ways to deploy a model that change no number: over several chips, and encrypted."""

from __future__ import annotations

from models.check.language import Build, LanguageFamily
from models.check.serving import Served
from models.check.templates import CHATML_TOOLS
from models.check.tokenizers import Kind
from tests.support import float_models, llama_checkpoints
from tpuserve.encryption import encrypt_directory, read_key, write_new_key
from tpuserve.model_dir import ModelDir


def sealed(model: ModelDir) -> Served:
    """An encrypted copy beside the model, and its key."""
    key, copy = model.path.with_name("key"), model.path.with_name("sealed")
    write_new_key(key)
    encrypt_directory(model.path, copy, read_key(key))
    return Served(copy, ("--key-file", str(key)))


_BUILDS = (
    Build("f16", "2 chips, history, chunks", "--history --chunk 64 --num-device 2", served=True),
    Build("w4f16", "2 chips, batch 2", "--history --chunk 32 --batch 2 --num-device 2"),
    Build("f16", "encrypted", "--history --chunk 64", served=True, prepare=sealed),
)
ROWS = tuple(
    LanguageFamily(
        name="qwen2, deployed",
        checkpoint=llama_checkpoints.qwen2,
        reference=float_models.qwen2,
        tokenizer=Kind("byte_level", template=CHATML_TOOLS),
        builds=_BUILDS,
    ).rows()
)
