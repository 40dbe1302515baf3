"""A tokenizer for a small model: its publisher's where TPUSERVE_TOKENIZERS has it, else one of the
same kind, trained here."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.unit.tokenizer_svc.tiny_tokenizers import MAKERS
from tokenizer_svc.loading import load
from tokenizer_svc.tokenizer import TokenizerConfigError

_MAX_CHARACTERS = 100_000


@dataclass(frozen=True, slots=True)
class Kind:
    """`small` names one of MAKERS, `published` a directory below TPUSERVE_TOKENIZERS.

    template: the chat template of the small one; empty where the kind brings its own.
    """

    small: str
    published: str = ""
    template: str = ""


def write(kind: Kind, directory: Path) -> tuple[int, str]:
    """Fill the empty directory; returns (number of ids, "small" or "published")."""
    root = os.environ.get("TPUSERVE_TOKENIZERS")
    source = Path(root) / kind.published if root and kind.published else None
    if source and source.is_dir():
        for path in source.iterdir():
            if path.name != "config.json":
                shutil.copyfile(path, directory / path.name)
        try:
            return _ids(directory), "published"
        except TokenizerConfigError:
            # Some publish their settings freely and their vocabulary on request.
            for path in directory.iterdir():
                path.unlink()
    MAKERS[kind.small](directory)
    if kind.template:
        settings_path = directory / "tokenizer_config.json"
        settings = json.loads(settings_path.read_text()) if settings_path.exists() else {}
        settings["chat_template"] = kind.template
        settings_path.write_text(json.dumps(settings))
    return _ids(directory), "small"


def _ids(directory: Path) -> int:
    return load(directory, max_characters=_MAX_CHARACTERS).tokenizer.vocab_size
