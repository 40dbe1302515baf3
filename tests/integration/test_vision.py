"""Questions about images through all services, on the emulator with the small vision model.

Its weights are random, so what it says means nothing; but it says something else about another
image, the same every time, and what it says comes from pixels that clients sent in many ways.
"""

from __future__ import annotations

import asyncio
import base64
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest
from PIL import Image

from bench.processes import Stack
from tests.integration.stack import DEMO, start_stack
from tests.support.service_process import ROOT
from tpuserve import errors
from tpuserve.client import AsyncClient, Client, Message, Options, Reply
from tpuserve.v1 import chat_pb2, generation_pb2, generation_pb2_grpc

VISION_NAME = "tpuserve-vision"
VISION = ROOT / "tests" / "fixtures" / "models" / "mllama"
QUESTION = "What is this?"
GREEDY = Options(temperature=0, max_tokens=12)


def png(size: tuple[int, int], shade: tuple[int, int, int]) -> bytes:
    """A picture with a gradient, so that its tiles differ."""
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    image.paste(Image.new("RGB", (size[0] // 2, size[1]), shade))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


ONE_TILE = png((60, 50), (250, 10, 10))
FOUR_TILES = png((140, 140), (10, 10, 250))
WIDE = png((200, 40), (10, 250, 10))


def asked(*images: bytes, text: str = QUESTION) -> list[Message]:
    return [Message("user", text, images=images)]


@pytest.fixture(scope="module")
def vision() -> Iterator[Stack]:
    with start_stack(VISION) as running:
        yield running


@pytest.fixture
def client(vision: Stack) -> Iterator[Client]:
    with Client(vision.address) as client:
        yield client


def ids(reply: Reply) -> tuple[int, ...]:
    return reply.completions[0].token_ids


def test_each_image_gets_its_own_answer_every_time(client: Client) -> None:
    conversations = [asked(), asked(ONE_TILE), asked(FOUR_TILES), asked(WIDE)]
    first = [ids(client.chat_once(messages, GREEDY)) for messages in conversations]
    assert len(set(first)) == len(first)
    again = [client.chat_once(messages, GREEDY) for messages in reversed(conversations)]
    assert [ids(reply) for reply in reversed(again)] == first


async def test_images_share_a_batch_without_a_trace(vision: Stack) -> None:
    conversations = [asked(ONE_TILE), asked(), asked(FOUR_TILES), asked(WIDE)]
    async with AsyncClient(vision.address) as client:
        alone = [await client.chat_once(messages, GREEDY) for messages in conversations]
        together = await asyncio.gather(
            *(client.chat_once(messages, GREEDY) for messages in conversations)
        )
    assert [ids(reply) for reply in together] == [ids(reply) for reply in alone]


def test_a_second_turn_finds_the_rows_of_the_same_image(client: Client) -> None:
    long = QUESTION + " Say it in many words, and say where it is." * 4
    first = client.chat_once(asked(FOUR_TILES, text=long), GREEDY)

    def second_turn(image: bytes) -> Reply:
        said = [Message("assistant", first.text), Message("user", "And where?")]
        return client.chat_once([*asked(image, text=long), *said], GREEDY)

    second, other = second_turn(FOUR_TILES), second_turn(WIDE)
    assert second.usage.prompt_tokens == other.usage.prompt_tokens
    assert second.usage.cached_tokens > 0
    # The same ids with another image share nothing.
    assert other.usage.cached_tokens == 0
    assert ids(other) != ids(second)


def test_the_openai_sdk_sends_data_urls(vision: Stack, client: Client) -> None:
    sdk = openai.OpenAI(base_url=f"{vision.http_url}/v1", api_key="none", max_retries=0)
    url = f"data:image/png;base64,{base64.b64encode(WIDE).decode()}"
    content: list[Any] = [
        {"type": "image_url", "image_url": {"url": url, "detail": "high"}},
        {"type": "text", "text": QUESTION},
    ]
    reply = sdk.chat.completions.create(
        model=VISION_NAME,
        messages=[{"role": "user", "content": content}],
        temperature=0,
        max_tokens=12,
    )
    assert reply.choices[0].message.content == client.chat_once(asked(WIDE), GREEDY).text
    with pytest.raises(openai.PermissionDeniedError, match=r"not fetched from example\.org"):
        sdk.chat.completions.create(
            model=VISION_NAME,
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}
                    ],
                }
            ],
        )


def test_a_model_says_how_many_images_it_takes(vision: Stack) -> None:
    with grpc.insecure_channel(vision.address) as channel:
        stub = generation_pb2_grpc.GenerationStub(channel)
        model = stub.GetModel(generation_pb2.GetModelRequest(name=VISION_NAME))
    assert model.max_images == 2


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (asked(ONE_TILE, WIDE, FOUR_TILES), "has 3 images; model tpuserve-vision takes at most 2"),
        (asked(b"GIF89a nothing"), r"messages\[0\]\.content\[0\]: the image is none of PNG, JPEG"),
        (asked(ONE_TILE[:-40]), r"messages\[0\]\.content\[0\]: the image is cut off or corrupt"),
        (asked(b""), "image 0 has 0 bytes"),
        (
            [Message("assistant", "so", images=[ONE_TILE]), Message("user", "x")],
            "only a user or a tool may show",
        ),
    ],
)
def test_bad_images_are_named(client: Client, messages: list[Message], reason: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=reason):
        client.chat_once(messages, GREEDY)


def test_a_text_sees_the_images_before_it(vision: Stack) -> None:
    def answer(*parts: chat_pb2.ContentPart) -> list[int]:
        request = generation_pb2.ChatRequest(
            messages=[chat_pb2.Message(role=chat_pb2.ROLE_USER, content=parts)],
            sampling=generation_pb2.SamplingParams(temperature=0),
            stopping=generation_pb2.StoppingParams(max_tokens=12),
        )
        with grpc.insecure_channel(vision.address) as channel:
            reply = generation_pb2_grpc.GenerationStub(channel).ChatOnce(request)
        return list(reply.completions[0].token_ids)

    one, wide = chat_pb2.ContentPart(image=ONE_TILE), chat_pb2.ContentPart(image=WIDE)
    text = chat_pb2.ContentPart(text=QUESTION)
    assert answer(one, text, wide) != answer(wide, text, one)


def test_a_text_model_refuses_images() -> None:
    with (
        start_stack(DEMO) as running,
        Client(running.address) as client,
        pytest.raises(errors.FeatureMissing, match="reads text only"),
    ):
        client.chat_once(asked(ONE_TILE), GREEDY)


def test_ids_of_images_need_images(vision: Stack) -> None:
    """A plain prompt may spell the image token; the device counts images and tokens."""
    with grpc.insecure_channel(vision.address) as channel:
        stub = generation_pb2_grpc.GenerationStub(channel)
        request = generation_pb2.GenerateRequest(
            token_ids=generation_pb2.TokenIds(ids=[0, 512, 30])
        )
        with pytest.raises(grpc.RpcError) as refused:
            stub.GenerateOnce(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_parts_of_a_message_may_mix(vision: Stack) -> None:
    parts = [
        chat_pb2.ContentPart(text="a"),
        chat_pb2.ContentPart(image=ONE_TILE),
        chat_pb2.ContentPart(text="b"),
    ]
    with grpc.insecure_channel(vision.address) as channel:
        stub = generation_pb2_grpc.GenerationStub(channel)
        request = generation_pb2.TokenizeRequest(
            chat=generation_pb2.Conversation(
                messages=[chat_pb2.Message(role=chat_pb2.ROLE_USER, content=parts)]
            )
        )
        tokens = stub.Tokenize(request).tokens
    text = b"".join(tokens).decode()
    assert "a<|image|>b<|eot_id|>" in text


def test_the_chat_command_shows_images(vision: Stack, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(FOUR_TILES)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tpuserve.cli",
            "chat",
            "--address",
            vision.address,
            "--temperature",
            "0",
            "--max-tokens",
            "12",
            "--image",
            str(path),
        ],
        input=f"{QUESTION}\nimage nowhere.png\nexit\n",
        capture_output=True,
        text=True,
        timeout=25,
        check=True,
        cwd=ROOT,
    )
    with Client(vision.address) as client:
        answer = client.chat_once(asked(FOUR_TILES), GREEDY).text
    assert answer.strip() in done.stdout
    assert "nowhere.png: No such file" in done.stderr
