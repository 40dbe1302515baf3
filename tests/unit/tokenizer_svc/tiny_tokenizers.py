"""Tiny tokenizers of every kind, trained here, as config directories."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

SENTENCES = [
    "The tensor unit multiplies matrices and the gateway counts tokens.",
    "A user asks, the assistant answers; the system sets the tone.",
    "Numbers 0 1 2 3 4 5 6 7 8 9 and 2024, prices 3.14 and 99%.",
    "Größe, naïve café, año, 你好世界, こんにちは, привет мир, 🙂🙃 👨‍👩‍👧",
    'def f(x):\n    return {"a": [x, 1.5], "b": None}\n',
    "  two  spaces   three\ttab\nline\r\nend ",
] * 4

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

CHATML = (
    "{%- for m in messages -%}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{%- if add_generation_prompt -%}<|im_start|>assistant\n{% endif %}"
)


def write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def _byte_level() -> HfTokenizer:
    tokenizer = HfTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def make_byte_level(path: Path) -> None:
    tokenizer = _byte_level()
    # One that is special, with a space in it, and one that is not special.
    tokenizer.add_tokens(["<think>"])
    tokenizer.save(str(path / "tokenizer.json"))
    write_json(
        path / "tokenizer_config.json",
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": CHATML},
    )
    write_json(path / "generation_config.json", {"eos_token_id": [2, 0], "do_sample": False})


def make_gpt2(path: Path) -> None:
    _byte_level().model.save(str(path))


def make_llama_json(path: Path) -> None:
    """SentencePiece-like tokenizer.json: ▁, byte tokens, a BOS."""
    alphabet = sorted({c for s in SENTENCES for c in s if c.isascii()} | {"▁"} - {" "})
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for value in range(256):
        vocabulary[f"<0x{value:02X}>"] = len(vocabulary)
    for character in alphabet:
        vocabulary.setdefault(character, len(vocabulary))
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "a"), ("i", "n"), ("▁", "▁")]
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    model = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = HfTokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer.save(str(path / "tokenizer.json"))
    write_json(
        path / "tokenizer_config.json",
        {
            "bos_token": {"content": "<s>"},
            "eos_token": {"content": "</s>"},
            "chat_template": "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}"
            "{{ eos_token }}{% endfor %}",
        },
    )


def make_wordpiece(path: Path) -> None:
    tokenizer = HfTokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.save(str(path / "tokenizer.json"))


def make_metaspace(path: Path) -> None:
    tokenizer = HfTokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>", "<s>"], show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.save(str(path / "tokenizer.json"))


def make_tiktoken(path: Path) -> None:
    tokens = [bytes((value,)) for value in range(256)]
    tokens += [b"th", b"the", b" the", b"in", b"\n\n", " 你".encode(), "你好".encode()[:4]]
    lines = (base64.b64encode(t) + b" %d\n" % rank for rank, t in enumerate(tokens))
    (path / "tiny.tiktoken").write_bytes(b"".join(lines))


def _train_sentencepiece(path: Path, **options: Any) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_prefix=str(path / "tokenizer"),
        model_type="bpe",
        vocab_size=450,
        byte_fallback=True,
        character_coverage=0.98,
        minloglevel=2,
        **options,
    )


def make_sentencepiece(path: Path) -> None:
    _train_sentencepiece(
        path,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["<mark>"],
    )
    write_json(
        path / "tokenizer_config.json",
        {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "added_tokens_decoder": {"450": {"content": "<|extra|>", "special": True}},
            "chat_template": "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}",
        },
    )


def make_sentencepiece_squeezing(path: Path) -> None:
    """SentencePiece's own defaults: runs of spaces become one."""
    _train_sentencepiece(path)


def make_chatglm(path: Path) -> None:
    _train_sentencepiece(path, normalization_rule_name="identity", remove_extra_whitespaces=False)
    write_json(
        path / "tokenizer_config.json",
        {"tokenizer_class": "ChatGLMTokenizer", "chat_template": "{{ raise_exception('unused') }}"},
    )


MAKERS = {
    "byte_level": make_byte_level,
    "gpt2": make_gpt2,
    "llama_json": make_llama_json,
    "wordpiece": make_wordpiece,
    "metaspace": make_metaspace,
    "tiktoken": make_tiktoken,
    "sentencepiece": make_sentencepiece,
    "squeezing": make_sentencepiece_squeezing,
    "chatglm": make_chatglm,
}
