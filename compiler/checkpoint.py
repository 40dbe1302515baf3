"""A Hugging Face checkpoint as the converter gets to see it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler import weights
from compiler.errors import CompileError
from compiler.families import llama
from compiler.families.registry import FAMILIES

# Converted and compared with a float reference.
SUPPORTED_TYPES = (*llama.LLAMA_TYPES, *FAMILIES)

_SERVING_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "*.tiktoken",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    path: Path
    config: dict[str, Any]
    weights: tuple[Path, ...]

    @classmethod
    def open(cls, path: Path) -> "Checkpoint":
        """Raises CompileError when files are missing or the architecture is not supported."""
        config_path = path / "config.json"
        if not config_path.is_file():
            raise CompileError(f"{config_path} does not exist: is {path} a checkpoint directory?")
        try:
            config = json.loads(config_path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CompileError(f"{config_path} is not JSON: {error}") from None
        if not isinstance(config, dict):
            raise CompileError(f"{config_path} holds no JSON object")
        model_type = config.get("model_type")
        if model_type not in SUPPORTED_TYPES:
            known = ", ".join(SUPPORTED_TYPES)
            raise CompileError(f"model_type {model_type!r} is not supported; supported: {known}")
        return cls(path, config, weights.find(path))

    @property
    def driver(self) -> Path | None:
        """The program that converts the staged form; None for the converter's own."""
        family = FAMILIES.get(self.config["model_type"])
        return family.driver if family else None

    @property
    def takes_images(self) -> bool:
        family = FAMILIES.get(self.config["model_type"])
        return family is not None and family.images

    def check(self, seq_tokens: int, quantize: str) -> None:
        """Raises CompileError when the compiled form would compute something else, at that length
        or at all."""
        family = FAMILIES.get(self.config["model_type"])
        if family:
            family.check_length(self.config, seq_tokens)
        else:
            llama.check(self.config, seq_tokens, quantize)

    def stage(self, directory: Path, quantize: str) -> dict[str, Any]:
        """Lay the checkpoint out in `directory` with the dtype that `quantize` computes in.

        The converter takes the activation type from the checkpoint's dtype and compares it with
        `quantize` by substring, so that bf16 on a float16 checkpoint passes and gives garbage. It
        reads all weights as float32, hence naming the wanted dtype here is enough. Returns the
        config that it gets. Raises CompileError when tensors are missing, of another shape, or
        unknown to the architecture.
        """
        directory.mkdir(parents=True)
        files = weights.as_safetensors(self.weights, directory.parent / "weights")
        family = FAMILIES.get(self.config["model_type"])
        if family:
            config = family.stage(self.config, files, directory)
        else:
            who = str(self.config["model_type"])
            weights.check(files, llama.shapes(self.config), llama.BUFFERS, who)
            config = {key: value for key, value in self.config.items() if key != "dtype"}
            for path in files:
                (directory / path.name).symlink_to(path.resolve())
        dtype = "bfloat16" if quantize.endswith("bf16") else "float16"
        config["torch_dtype"] = dtype
        if "text_config" in config:
            config["text_config"] = {**config["text_config"], "torch_dtype": dtype}
        (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return config

    def serving_files(self) -> list[Path]:
        """The files that serving needs beside the bmodel."""
        found = (path for name in _SERVING_FILES for path in sorted(self.path.glob(name)))
        return [path for path in found if path.is_file()]
