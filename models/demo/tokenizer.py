"""Trains the demo's byte-level BPE tokenizer and writes the `config/` files of the model
directory."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from models.demo.corpus.conversations import DEFAULT_SYSTEM, Message

VOCAB_SIZE = 1024
END_OF_TEXT, MESSAGE_START, MESSAGE_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, MESSAGE_START, MESSAGE_END)  # ids 0, 1, 2

# Words take their leading space along, digits stay alone (sums are learnt digit by digit).
_WORDS = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' -%}"
    "<|im_start|>system\n" + DEFAULT_SYSTEM + "<|im_end|>\n"
    "{% endif %}"
    "{%- for message in messages -%}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A BPE tokenizer of VOCAB_SIZE entries: special tokens, the 256 bytes, then merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def message_prefix(message: Message) -> str:
    return f"{MESSAGE_START}{message.role}\n"


def render(messages: list[Message]) -> str:
    """The text of a conversation, equal to CHAT_TEMPLATE without a generation prompt."""
    return "".join(f"{message_prefix(m)}{m.content}{MESSAGE_END}\n" for m in messages)


def write_config(directory: Path, tokenizer: Tokenizer, model_config: dict[str, object]) -> None:
    """tokenizer.json, tokenizer_config.json, generation_config.json and config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    _write_json(directory / "config.json", model_config)
    _write_json(
        directory / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "bos_token": None,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": MESSAGE_END,
            "model_max_length": model_config["max_position_embeddings"],
            "pad_token": END_OF_TEXT,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": None,
        },
    )
    _write_json(
        directory / "generation_config.json",
        {
            "do_sample": False,
            "eos_token_id": [SPECIAL_TOKENS.index(MESSAGE_END), SPECIAL_TOKENS.index(END_OF_TEXT)],
            "pad_token_id": SPECIAL_TOKENS.index(END_OF_TEXT),
        },
    )


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
