"""Templates and the built-in conversation formats."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from tests.unit.tokenizer_svc.answer_texts import read
from tests.unit.tokenizer_svc.tiny_tokenizers import make_byte_level, write_json
from tokenizer_svc import config_files
from tokenizer_svc.answers.formats import AnswerFormats, detect
from tokenizer_svc.control import ControlTexts, Mask
from tokenizer_svc.conversation import Conversation, Message, Tool, ToolCall
from tokenizer_svc.loading import LoadedTokenizer, load
from tokenizer_svc.template import ChatTemplate, find_sources
from tokenizer_svc.tokenizer import TokenizerConfigError
from tpuserve.errors import FeatureMissing, InvalidArgument

WEATHER = Tool("weather", "Tells it.", {"type": "object", "properties": {"at": {"type": "string"}}})


def template(source: str, **variables: str) -> ChatTemplate:
    return ChatTemplate(
        {"default": source},
        variables=variables,
        max_characters=10_000,
        now=lambda: datetime(2026, 3, 4),
    )


def render(
    source: str, *messages: dict[str, Any], tools: list[dict[str, Any]] | None = None
) -> str:
    return template(source, bos_token="<s>").render(
        list(messages), tools=tools or [], add_generation_prompt=True
    )


def test_templates_get_what_transformers_gives_them() -> None:
    assert render("{{ bos_token }}{{ strftime_now('%d %b %Y') }}") == "<s>04 Mar 2026"
    assert render("{% if tools is none and documents is none %}\n  x\n{% endif %}") == "  x\n"
    assert (
        render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}")
        == "01"
    )
    assert render("{% generation %}{{ 1 }}{% endgeneration %}") == "1"
    assert render("{{ [1, '<é>'] | tojson }}") == '[1, "<é>"]'
    assert render("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}") == (
        '{\n "a": 2,\n "b": 1\n}'
    )


def test_the_refusal_of_a_template_is_the_client_s_error() -> None:
    with pytest.raises(InvalidArgument, match="roles must alternate") as caught:
        render("{{ raise_exception('roles must alternate') }}")
    assert caught.value.field == "messages"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[5].content.x }}",
        "{{ 1 + 'a' }}",
        "{{ 1 / 0 }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ range(10000000) | list }}",
    ],
)
def test_a_failing_template_is_refused_without_details(source: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^the chat template cannot render"):
        render(source, {"role": "user", "content": "x"})


def test_rendering_is_bounded() -> None:
    with pytest.raises(InvalidArgument, match="10000 characters"):
        render("{% for i in range(99999) %}{{ 'x' * 99 }}{% endfor %}")


def test_tools_need_a_place_in_the_template() -> None:
    with pytest.raises(FeatureMissing, match="tools"):
        render("{{ messages[0].content }}", {"content": "x"}, tools=[{"type": "function"}])


def test_the_named_template_for_tools_is_used_with_tools() -> None:
    chat = ChatTemplate(
        {"default": "plain", "tool_use": "{{ tools | length }} tools"},
        variables={},
        max_characters=100,
    )
    assert chat.render([], tools=[], add_generation_prompt=True) == "plain"
    assert chat.render([], tools=[{}], add_generation_prompt=True) == "1 tools"


def test_where_templates_come_from(tmp_path: Path) -> None:
    def found() -> dict[str, str]:
        return find_sources(config_files.read(tmp_path))

    assert found() == {}
    named = [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": named})
    assert found() == {"default": "a", "rag": "b"}
    write_json(tmp_path / "chat_template.json", {"chat_template": "c"})
    assert found() == {"default": "c"}
    (tmp_path / "chat_template.jinja").write_text("d")
    assert found() == {"default": "d"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "neither a text nor a list"),
        ([{"name": "x"}], "neither a text nor a list"),
        ([{"name": "rag", "template": "b"}], "no chat template is named default"),
        ("{% if %}", "the chat template 'default'"),
    ],
)
def test_broken_templates_stop_the_start(tmp_path: Path, value: object, message: str) -> None:
    make_byte_level(tmp_path)
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": value})
    with pytest.raises(TokenizerConfigError, match=message):
        load(tmp_path, max_characters=100)


def test_tools_and_calls_have_the_shapes_of_hugging_face(tmp_path: Path) -> None:
    make_byte_level(tmp_path)
    source = "{{ [messages, tools] | tojson }}"
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": source})
    model = load(tmp_path, max_characters=10_000)
    assert model.chat is not None
    calls = (ToolCall("c1", "weather", {"at": "Rome"}), ToolCall("c2", "weather", "{broken"))
    conversation = Conversation(
        (Message("assistant", "", calls), Message("tool", "rain", tool_call_id="c1", name="w")),
        (WEATHER, Tool("now", "", None)),
    )
    text = model.tokenizer.decode(model.chat.encode(conversation), keep_special_tokens=True)
    functions = [
        {"name": "weather", "arguments": {"at": "Rome"}},
        {"name": "weather", "arguments": "{broken"},
    ]
    assert json.loads(text) == [
        [
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": f"c{n}", "type": "function", "function": function}
                    for n, function in enumerate(functions, start=1)
                ],
            },
            {"role": "tool", "content": "rain", "tool_call_id": "c1", "name": "w"},
        ],
        [
            {
                "type": "function",
                "function": {
                    "name": "weather",
                    "description": "Tells it.",
                    "parameters": WEATHER.parameters,
                },
            },
            {"type": "function", "function": {"name": "now", "description": ""}},
        ],
    ]


def test_qwen_v1_speaks_chatml_without_a_template(loaded: dict[str, LoadedTokenizer]) -> None:
    model = loaded["tiktoken"]
    assert model.chat is not None
    decode = model.tokenizer.decode
    ids = model.chat.encode(Conversation((Message("user", "hi"),)))
    assert decode(ids, keep_special_tokens=True) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    own = Conversation((Message("system", "s"), Message("assistant", "a")), (), False)
    assert decode(model.chat.encode(own), keep_special_tokens=True) == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
    )
    with pytest.raises(InvalidArgument, match="knows no tools"):
        model.chat.encode(Conversation((Message("tool", "x"),)))


def test_chatglm3_encodes_turns_apart(
    loaded: dict[str, LoadedTokenizer], configs: dict[str, Path]
) -> None:
    model = loaded["chatglm"]
    processor = sentencepiece.SentencePieceProcessor(
        model_file=str(configs["chatglm"] / "tokenizer.model")
    )
    size = processor.get_piece_size()
    gmask, sop, user, assistant = size + 1, size + 3, size + 6, size + 7
    assert model.chat is not None
    ids = model.chat.encode(Conversation((Message("user", "hi <|user|> sop"),)))
    newline = processor.encode("\n")
    text = processor.encode("hi <|user|> sop")
    assert ids == [gmask, sop, user, *newline, *text, assistant]
    assert model.tokenizer.encode("a", add_special_tokens=True)[:2] == [gmask, sop]
    assert model.eos_ids == (processor.eos_id(), user, size + 8)


def test_chatglm3_writes_tools_and_calls(loaded: dict[str, LoadedTokenizer]) -> None:
    model = loaded["chatglm"]
    assert model.chat is not None
    call = ToolCall("", "weather", {"at": "Rome", "n": 2})
    messages = (
        Message("user", "go"),
        Message("assistant", "", (call,)),
        Message("tool", "rain"),
    )
    ids = model.chat.encode(Conversation(messages, (WEATHER,), False))
    text = model.tokenizer.decode(ids, keep_special_tokens=True)
    tools = json.dumps([WEATHER.described()], indent=4)
    assert f"access to the following tools:\n{tools}<|user|> \n go" in text
    assert text.endswith(
        "<|assistant|> weather\n ```python\ntool_call(at='Rome', n=2)\n```<|observation|> \n rain"
    )


def test_thinking_is_a_switch_of_the_template() -> None:
    source = "{% if enable_thinking is defined and not enable_thinking %}off{% else %}on{% endif %}"
    chat = ChatTemplate({"default": source}, variables={}, max_characters=100)
    for thinking, text in ((None, "on"), (True, "on"), (False, "off")):
        assert chat.render([], tools=[], add_generation_prompt=True, thinking=thinking) == text
    without = ChatTemplate({"default": "x"}, variables={}, max_characters=100)
    with pytest.raises(FeatureMissing, match="no switch for thinking"):
        without.render([], tools=[], add_generation_prompt=True, thinking=True)


def test_an_assistants_reasoning_is_the_template_s_to_show(tmp_path: Path) -> None:
    make_byte_level(tmp_path)
    source = "{% for m in messages %}{{ m.reasoning_content or '-' }}|{{ m.content }};{% endfor %}"
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": source})
    model = load(tmp_path, max_characters=10_000)
    assert model.chat is not None
    messages = (Message("assistant", "a", reasoning="<|im_end|>"), Message("user", "b"))
    ids = model.chat.encode(Conversation(messages))
    assert model.tokenizer.decode(ids, keep_special_tokens=True) == "<|im_end|>|a;-|b;"
    assert not set(model.tokenizer.control_ids.values()) & set(ids)


@pytest.mark.parametrize("real_config", ["chatglm3-6b"], indirect=True)
def test_published_chatglm3(real_config: Path) -> None:
    model = load(real_config, max_characters=1000)
    assert model.chat is not None
    assert model.chat.encode(Conversation((Message("user", "hi"),))) == [
        *(64790, 64792, 64795, 30910, 13),
        *(14980, 64796),
    ]
    assert (model.tokenizer.vocab_size, model.eos_ids) == (64798, (2, 64795, 64797))


@pytest.mark.parametrize("real_config", ["qwen-v1"], indirect=True)
def test_published_qwen_v1(real_config: Path) -> None:
    model = load(real_config, max_characters=1000)
    assert model.tokenizer.vocab_size == 151851
    assert model.eos_ids == (151645, 151643)
    assert model.tokenizer.encode("<|extra_204|>", add_special_tokens=True) == [151850]
    # Texts are composed before they are encoded.
    encode = model.tokenizer.encode
    assert encode("e\u0301", add_special_tokens=True) == encode("\u00e9", add_special_tokens=True)


@pytest.mark.parametrize("real_config", ["qwen3", "llama3.2-11b-vision"], indirect=True)
def test_published_templates_render(real_config: Path) -> None:
    files = config_files.read(real_config)
    chat = ChatTemplate(find_sources(files), variables=files.special, max_characters=10_000)
    tools = [{"type": "function", "function": WEATHER.described()}]
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello?"}]
    text = chat.render(messages, tools=tools, add_generation_prompt=True)
    assert "be kind" in text
    assert '"weather"' in text
    assert text.endswith(
        ("<|im_start|>assistant\n", "<|start_header_id|>assistant<|end_header_id|>\n\n")
    )


@pytest.mark.parametrize(
    ("real_config", "answers", "call", "result"),
    [
        (
            "qwen3",
            AnswerFormats("qwen", "think"),
            '<tool_call>\n{"name": "weather", "arguments": {"at": "Rome"}}\n</tool_call>',
            "<tool_response>\n42 degrees\n</tool_response>",
        ),
        (
            "llama3.2-11b-vision",
            AnswerFormats("llama3", "none"),
            '{"name": "weather", "parameters": {"at": "Rome"}}',
            '<|start_header_id|>ipython<|end_header_id|>\n\n"42 degrees"',
        ),
    ],
    indirect=["real_config"],
)
def test_published_templates_show_calls_as_the_readers_read_them(
    real_config: Path, answers: AnswerFormats, call: str, result: str
) -> None:
    files = config_files.read(real_config)
    sources = find_sources(files)
    assert detect(sources.values()) == answers
    chat = ChatTemplate(sources, variables=files.special, max_characters=10_000)
    messages = (
        Message("user", "go"),
        Message("assistant", "", (ToolCall("c", "weather", {"at": "Rome"}),)),
        Message("tool", "42 degrees", tool_call_id="c"),
    )
    mask = Mask(ControlTexts([]))
    text = chat.render(
        [message.for_template(mask) for message in messages],
        tools=[WEATHER.for_template(mask)],
        add_generation_prompt=True,
    )
    assert call in text
    assert result in text
    whole = read(call, tools=answers.tools, functions=["weather"])
    assert whole.parsed == [("weather", {"at": "Rome"})]


@pytest.mark.parametrize("real_config", ["qwen3"], indirect=True)
def test_the_published_qwen3_template_has_the_switch(real_config: Path) -> None:
    files = config_files.read(real_config)
    chat = ChatTemplate(find_sources(files), variables=files.special, max_characters=10_000)
    messages = [{"role": "user", "content": "hi"}]
    text = chat.render(messages, tools=[], add_generation_prompt=True, thinking=False)
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
