"""GPTBigCode: WizardCoder-15B and StarCoder. It continues texts; instructions are a prompt."""

from __future__ import annotations

from models.check.language import ARGMAX, BUILDS, LanguageFamily
from models.check.tokenizers import Kind
from tests.support import float_models, tiny_checkpoints

ROWS = tuple(
    LanguageFamily(
        name="gpt_bigcode",
        checkpoint=tiny_checkpoints.gpt_bigcode,
        reference=float_models.gpt_bigcode,
        tokenizer=Kind("gpt2", "wizardcoder-15b"),
        chats=False,
        builds=(*BUILDS, ARGMAX),
    ).rows()
)
