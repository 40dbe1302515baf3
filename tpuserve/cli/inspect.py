"""`tpuserve inspect DIR|FILE`: a bmodel's nets, features and memory budget, without a chip."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tpuserve import bmodel, encryption, model_dir
from tpuserve.bmodel import (
    Bmodel,
    LanguageModel,
    MemoryBudget,
    Net,
    Tensor,
    Variant,
    VisionModel,
)
from tpuserve.cli import sealed_page, text
from tpuserve.cli.errors import CommandError
from tpuserve.cli.memory_rows import memory_rows

_SHORT: Final = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "int32": "i32"}


@dataclass(frozen=True, slots=True)
class Inspection:
    """`slots` is what the model directory asks for; None for a bare file or where it is silent.

    paths, memories: of each chip. bmodel: all of them as one.
    """

    name: str
    paths: tuple[Path, ...]
    bmodel: Bmodel
    language: LanguageModel | None
    memories: tuple[MemoryBudget, ...]
    tokenizer: str | None
    slots: int | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, help="a model directory or a bmodel file")
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE", help="key of an encrypted bmodel; shows all of it"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    sealed = _sealed(args.path, args.key_file)
    if sealed:
        print(sealed_page.show(sealed, as_json=args.json))
        return 0
    found = inspect(args.path, args.key_file)
    print(json.dumps(_document(found), indent=2) if args.json else _page(found))
    return 0


def _sealed(path: Path, key_file: Path | None) -> list[encryption.Container]:
    """The encrypted files that are to be shown without their key. Raises CommandError."""
    if key_file is not None:
        return []
    try:
        files = model_dir.load(path).bmodels if path.is_dir() else (path,)
        return [encryption.open_container(f) for f in files if encryption.is_encrypted(f)]
    except (model_dir.ModelDirError, encryption.EncryptionError) as error:
        raise CommandError(str(error)) from error


def inspect(path: Path, key_file: Path | None = None) -> Inspection:
    """Raises CommandError when the directory or the file cannot be read."""
    try:
        model = model_dir.load(path) if path.is_dir() else None
        files = (path,) if model is None else model.bmodels
        parts = [_read(file, key_file) for file in files]
    except (model_dir.ModelDirError, bmodel.BmodelFileError, encryption.EncryptionError) as error:
        raise CommandError(str(error)) from error
    content = bmodel.joined(parts)
    return Inspection(
        name=path.stem if model is None else model.name,
        paths=files,
        bmodel=content,
        language=bmodel.describe(content),
        memories=tuple(bmodel.memory_budget(part) for part in parts),
        tokenizer=None if model is None else _tokenizer_kind(model.config),
        slots=None if model is None else model.slots,
    )


def _read(path: Path, key_file: Path | None) -> Bmodel:
    opened = encryption.unlock(path, key_file)
    return bmodel.read(path) if opened is None else encryption.read_bmodel(opened)


def _tokenizer_kind(config: Path) -> str:
    if (config / "tokenizer.json").is_file():
        return "Hugging Face (tokenizer.json)"
    for pattern, kind in (
        ("*.tiktoken", "tiktoken"),
        ("tokenizer.model", "SentencePiece"),
        ("vocab.json", "byte-level BPE"),
    ):
        for file in sorted(config.glob(pattern)):
            return f"{kind} ({file.name})"
    return f"none found in {config}"


def _document(found: Inspection) -> dict[str, object]:
    slots = found.slots or 1
    return {
        "name": found.name,
        "paths": [str(path) for path in found.paths],
        "tokenizer": found.tokenizer,
        "slots": found.slots,
        "language_model": found.language and _language_document(found.language),
        "memory": [
            {
                **dataclasses.asdict(memory),
                "total_bytes": memory.total_bytes(slots),
                "total_bytes_slots": slots,
            }
            for memory in found.memories
        ],
        **dataclasses.asdict(found.bmodel),
    }


def _language_document(language: LanguageModel) -> dict[str, object]:
    return {**dataclasses.asdict(language), "kv_bytes_per_slot": language.kv_bytes_per_slot}


def _page(found: Inspection) -> str:
    content = found.bmodel
    head = [
        *(("bmodel", f"{path} ({text.size(path.stat().st_size)})") for path in found.paths),
        ("chip", f"{content.chip} × {content.devices}, compiler {content.version}"),
    ]
    if found.tokenizer is not None:
        head.append(("tokenizer", found.tokenizer))
    if found.language is None:
        head.append(("model", "the nets are not those of a language model that tpuserve knows"))
    else:
        head += _language_rows(found.language)
    blocks = [found.name, text.table(head)]
    for place, memory in enumerate(found.memories):
        chip = "the chip" if len(found.memories) == 1 else f"chip {place} of the group"
        blocks += ["", f"device memory on {chip}", text.table(memory_rows(memory, found.slots))]
    blocks += ["", f"nets ({len(content.nets)})"]
    blocks += _net_lines(content.nets)
    return "\n".join(blocks)


def _language_rows(language: LanguageModel) -> list[tuple[str, str]]:
    vocabulary = f"{language.vocab_size} logits" if language.vocab_size else "argmax head"
    lengths = ", ".join(str(length) for length in language.decode_lengths)
    shared = language.history_chunk_tokens not in (0, language.prefill_chunk_tokens)
    later = f" and behind a prefix {language.history_chunk_tokens}" if shared else ""
    batch = f", {language.decode_rows} requests a step" if language.decode_rows > 1 else ""
    return [
        (
            "model",
            f"{language.layers} layers, hidden size {language.hidden_size}, "
            f"{language.kv_heads} KV heads of {language.head_dim}, {language.dtype}, {vocabulary}",
        ),
        (
            "lengths",
            f"context {language.context_length} tokens, prompt at most "
            f"{language.max_prompt_length}, prefill {language.prefill_chunk_tokens}{later} "
            f"at a time, decode nets for {lengths}{batch}",
        ),
        ("features", ", ".join(language.features)),
        (
            "KV",
            f"{text.size(language.kv_bytes_per_token)} per token, "
            f"{text.size(language.kv_bytes_per_slot)} per slot",
        ),
        *([] if language.vision is None else [("images", _images(language.vision))]),
    ]


def _images(vision: VisionModel) -> str:
    return (
        f"at most {vision.max_images} of {vision.max_tiles} tiles of {vision.image_size} pixels, "
        f"{vision.tile_tokens} keys a tile for {vision.layers} more layers, "
        f"{text.size(vision.image_bytes_per_slot)} per slot"
    )


def _net_lines(nets: tuple[Net, ...]) -> list[str]:
    """One paragraph per net; layers that look alike share theirs."""
    alike: dict[tuple[object, ...], list[Net]] = {}
    for net in nets:
        stem = re.sub(r"_\d+$", "", net.name)
        shapes = tuple(_shapes(variant) for variant in net.variants)
        alike.setdefault((stem, net.dynamic, net.io_alone, shapes), []).append(net)
    lines = []
    for group in alike.values():
        lines += _group_lines(group)
    return lines


def _group_lines(group: list[Net]) -> list[str]:
    net = group[0]
    first = net.variants[0]
    name = net.name if len(group) == 1 else f"{net.name} … {group[-1].name.rsplit('_', 1)[-1]}"
    mode = ("dynamic" if net.dynamic else "static") + (", own io memory" if net.io_alone else "")
    lines = [
        f"  {name}  ({mode})",
        f"    in   {_list(first.inputs)}",
        f"    out  {_list(first.outputs)}",
    ]
    for variant in net.variants[1:]:
        pairs = zip(first.inputs + first.outputs, variant.inputs + variant.outputs, strict=False)
        lines.append(f"    or   {_list(b for a, b in pairs if a.shape != b.shape)}")
    return lines


def _shapes(variant: Variant) -> tuple[str, str]:
    return _list(variant.inputs), _list(variant.outputs)


def _list(tensors: Iterable[Tensor]) -> str:
    return ", ".join(
        f"{tensor.name} {_SHORT.get(tensor.dtype, tensor.dtype)}"
        f"[{'×'.join(map(str, tensor.shape))}]"
        for tensor in tensors
    )
