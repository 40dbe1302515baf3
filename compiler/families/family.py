"""What the compiler must know of a family, and how its checkpoint is laid out for the converter."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.errors import CompileError
from compiler.families import tensor_file
from compiler.families.tensor_file import Rows


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture; all functions take the checkpoint's config and raise CompileError.

    architecture: class name in the config's `architectures`, for messages.
    length_key: config key, dotted where nested, of the longest sequence that the converted form
        computes rightly.
    check: refuses settings that the form does not cover.
    config: the converter's config.
    tensors: every tensor of the checkpoint, and what is made of it.
    buffers: pattern of tensors that are no weights.
    driver: program that runs the converter in its environment; None for the converter's own.
    images: the model looks at images.
    """

    architecture: str
    length_key: str
    check: Callable[[Mapping[str, Any]], None]
    config: Callable[[Mapping[str, Any]], dict[str, Any]]
    tensors: Callable[[Mapping[str, Any]], dict[str, tuple[Rows, ...]]]
    buffers: str
    driver: Path | None = None
    images: bool = False

    def check_length(self, config: Mapping[str, Any], seq_tokens: int) -> None:
        """Raises CompileError when the model is not defined, or is another one, at that length."""
        limit = int(required(config, self.length_key))
        if seq_tokens > limit:
            raise CompileError(
                f"seq is {seq_tokens}, must be at most {limit}: the {self.length_key} of this "
                f"{self.architecture}"
            )

    def stage(
        self, config: Mapping[str, Any], weights: Sequence[Path], directory: Path
    ) -> dict[str, Any]:
        """Write the converter's form of `weights` to `directory`; returns its config."""
        self.check(config)
        wanted = self.tensors(config)
        present = {name for path in weights for name in tensor_file.names_in(path)}
        missing = wanted.keys() - present
        if missing:
            raise CompileError(f"the checkpoint lacks {some(missing)}")
        unknown = {name for name in present - wanted.keys() if not re.search(self.buffers, name)}
        if unknown:
            raise CompileError(f"{self.architecture} has no tensors {some(unknown)}")
        unchanged = all(made == (Rows(name),) for name, made in wanted.items())
        for path in weights:
            if unchanged:
                (directory / path.name).symlink_to(path.resolve())
            else:
                tensor_file.rewrite(path, directory / path.name, wanted)
        return self.config(config)


def required(config: Mapping[str, Any], key: str) -> Any:
    """The entry of a key, dotted where nested. Raises CompileError when the config lacks it."""
    value: Any = config
    for part in key.split("."):
        if part not in value:
            raise CompileError(f"config.json lacks {key!r}")
        value = value[part]
    return value


def refuse_unless(config: Mapping[str, Any], key: str, wanted: Any) -> None:
    """Raises CompileError when the config sets the key to something else."""
    if config.get(key, wanted) != wanted:
        raise CompileError(f"{key} is {json.dumps(config[key])}, must be {json.dumps(wanted)}")


def some(names: set[str]) -> str:
    """The first few of them, for a message."""
    shown = sorted(names)[:3]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
