"""The tokenizer of the small vision model, in the shape of Llama 3.2's: control tokens first, then
bytes and merges learnt from the demo's texts, then the image token above the head's vocabulary.

`python -m models.mllama.tokenizer` writes its files into the fixture's config/.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

CONFIG = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "models" / "mllama" / "config"
TEXTS = Path(__file__).resolve().parents[1] / "demo" / "corpus"

BEGIN, IMAGE = "<|begin_of_text|>", "<|image|>"
# Ids 0 to 7; config.json names 0 as the beginning, 1 to 3 as ends and 4 as padding.
CONTROL = (
    BEGIN,
    "<|end_of_text|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|python_tag|>",
)
# Rows of the head; the image token has the next id.
VOCAB_SIZE = 512
TILE_SIZE = 70

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- macro turn(role) %}{{ '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}{% endmacro %}
{%- if tools %}
    {{- turn('system') + 'Call a function with a JSON object {"name": its name, ' }}
    {{- '"parameters": dictionary of its arguments}.\\n\\n' }}
    {%- for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}
    {{- '<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.tool_calls %}
        {%- set call = message.tool_calls[0].function %}
        {{- turn('assistant') + '{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson + '}<|eot_id|>' }}
    {%- elif message.content is string %}
        {{- turn('ipython' if message.role == 'tool' else message.role) }}
        {{- message.content + '<|eot_id|>' }}
    {%- else %}
        {{- turn('ipython' if message.role == 'tool' else message.role) }}
        {%- for part in message.content %}
            {{- '<|image|>' if part.type == 'image' else part.text }}
        {%- endfor %}
        {{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ turn('assistant') }}{% endif %}
"""


def train() -> Tokenizer:
    """The same tokenizer every time."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(CONTROL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [path.read_text(encoding="utf-8") for path in sorted(TEXTS.glob("*.txt"))]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(IMAGE, special=True, normalized=False)])
    assert tokenizer.token_to_id(IMAGE) == VOCAB_SIZE
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    return tokenizer


def write_config(directory: Path) -> None:
    """All of config/ but config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    train().save(str(directory / "tokenizer.json"))
    files: dict[str, dict[str, object]] = {
        "tokenizer_config.json": {
            "bos_token": BEGIN,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|eot_id|>",
            "pad_token": "<|finetune_right_pad_id|>",
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
        "generation_config.json": {
            "bos_token_id": 0,
            "eos_token_id": [1, 2, 3],
            "do_sample": True,
            "temperature": 0.6,
            "top_p": 0.9,
        },
        "preprocessor_config.json": {
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_pad": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_processor_type": "MllamaImageProcessor",
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "max_image_tiles": 4,
            "resample": 2,
            "rescale_factor": 1 / 255,
            "size": {"height": TILE_SIZE, "width": TILE_SIZE},
        },
    }
    for name, content in files.items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_config(CONFIG)
