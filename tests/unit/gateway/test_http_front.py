"""The HTTP API: bodies, SSE framing, errors, the old route, the OpenAI SDK."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from tests.unit.gateway.conftest import Start, World
from tests.unit.gateway.fakes import FakeDevice, eventually

HI = {"messages": [{"role": "user", "content": "hi"}]}
ANSWER = "<USER>HI<ASSISTANT>"


async def post(world: World, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with world.http.post(
        world.url + path, data=io.BytesIO(data), headers=headers
    ) as response:
        return response.status, await response.json()


async def raw_stream(world: World, path: str, body: Any) -> str:
    async with world.http.post(world.url + path, json=body) as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        return (await response.read()).decode()


def events(text: str) -> list[Any]:
    """Every event is one `data:` line and an empty line."""
    blocks = text.split("\n\n")
    assert blocks[-1] == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks[:-1])
    data = [block.removeprefix("data: ") for block in blocks[:-1]]
    return [d if d == "[DONE]" else json.loads(d) for d in data]


@pytest.fixture
async def sdk(world: World) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{world.url}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


async def test_sdk_chat(sdk: openai.AsyncOpenAI) -> None:
    reply = await sdk.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": "hi"}], seed=3, temperature=1
    )
    choice = reply.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content == ANSWER + "3"
    assert choice.finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == len(ANSWER)
    assert reply.usage.total_tokens == 2 * len(ANSWER) + 2
    assert reply.system_fingerprint == "fp_abababababab"


async def test_sdk_chat_stream(sdk: openai.AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(
        model="fake",
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWER
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(ANSWER) + 1


async def test_sdk_completions(sdk: openai.AsyncOpenAI) -> None:
    reply = await sdk.completions.create(model="fake", prompt=["ab", "cd"], n=2, echo=True)
    assert [(c.index, c.text) for c in reply.choices] == [
        (0, "abAB"),
        (1, "abAB"),
        (2, "cdCD"),
        (3, "cdCD"),
    ]
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == 4
    ids = await sdk.completions.create(model="fake", prompt=list(b"xy"), echo=True)
    assert ids.choices[0].text == "xyXY"
    stream = await sdk.completions.create(
        model="fake", prompt=[list(b"ab"), list(b"c")], stream=True
    )
    texts = ["", ""]
    async for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["AB", "C"]


async def test_sdk_logprobs(sdk: openai.AsyncOpenAI) -> None:
    chat = await sdk.chat.completions.create(
        model="fake",
        messages=[{"role": "user", "content": "hi"}],
        logprobs=True,
        top_logprobs=2,
        max_tokens=3,
    )
    assert chat.choices[0].logprobs is not None
    content = chat.choices[0].logprobs.content
    assert content is not None
    assert [entry.token for entry in content] == ["<", "U", "S"]
    assert content[1].bytes == [ord("U")]
    assert [top.token for top in content[1].top_logprobs] == ["U", "V"]
    plain = await sdk.completions.create(model="fake", prompt="abc", logprobs=1, max_tokens=3)
    logprobs = plain.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["A", "B", "C"]
    assert logprobs.text_offset == [0, 1, 2]
    assert logprobs.token_logprobs == [-0.5, -0.5, -0.5]


async def test_sdk_models(sdk: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in sdk.models.list()] == ["fake"]
    assert (await sdk.models.retrieve("fake")).owned_by == "tpuserve"
    with pytest.raises(openai.NotFoundError):
        await sdk.models.retrieve("other")


async def test_sdk_errors(sdk: openai.AsyncOpenAI) -> None:
    messages: Any = [{"role": "user", "content": "hi"}]
    with pytest.raises(openai.BadRequestError, match="temperature is 101") as bad:
        await sdk.chat.completions.create(model="fake", messages=messages, temperature=101)
    assert bad.value.param == "temperature"
    assert bad.value.code == "invalid_argument"
    with pytest.raises(openai.NotFoundError, match="'gpt' is not served; served: fake"):
        await sdk.chat.completions.create(model="gpt", messages=messages)


async def test_sdk_sees_an_error_in_a_stream(start: Start) -> None:
    device = FakeDevice()
    async with (
        start(device, failover_wait_s=0.05) as world,
        openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="x", max_retries=0) as sdk,
    ):
        device.hold()
        stream = await sdk.completions.create(model="fake", prompt="long", stream=True)
        device.allow(3)
        texts: list[str] = []

        async def read() -> None:
            async for chunk in stream:
                texts.append(chunk.choices[0].text)
                if "".join(texts) == "012":
                    await device.kill()

        with pytest.raises(openai.APIError, match="the device was lost"):
            await read()
        assert "".join(texts) == "012"
        assert world.gateway.metrics.failures["UNAVAILABLE", True] == 1


async def test_chat_stream_frames(world: World) -> None:
    text = await raw_stream(world, "/v1/chat/completions", {**HI, "stream": True})
    data = events(text)
    assert data[-1] == "[DONE]"
    assert data[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert {d["object"] for d in data[:-1]} == {"chat.completion.chunk"}
    assert len({d["id"] for d in data[:-1]}) == 1
    assert data[-2]["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert "usage" not in data[0]


async def test_text_survives_json_and_sse(world: World) -> None:
    prompt = 'a "b"\n\\ \u2028\x01€\r\nd'
    # Upper case is taken byte by byte.
    expected = prompt.encode().upper().decode()
    data = events(await raw_stream(world, "/v1/completions", {"prompt": prompt, "stream": True}))
    assert "".join(d["choices"][0]["text"] for d in data[:-1]) == expected
    _, reply = await post(world, "/v1/completions", {"prompt": prompt})
    assert reply["choices"][0]["text"] == expected


async def test_stop_seed_n_and_bias_pass_through(world: World) -> None:
    status, reply = await post(
        world,
        "/v1/completions",
        {
            "prompt": "abcdef",
            "stop": "DE",
            "n": 2,
            "seed": -1,
            "temperature": 0.5,
            "logit_bias": {"65": -5},
            "top_k": -1,
            "min_p": 0.1,
            "repetition_penalty": 1.5,
            "stop_token_ids": [7],
            "ignore_eos": True,
            "min_tokens": 1,
            "max_tokens": 50,
            "priority": "bulk",
            "user": "me",
        },
    )
    assert status == 200
    assert [c["text"] for c in reply["choices"]] == ["ABC", "ABC"]
    assert {c["finish_reason"] for c in reply["choices"]} == {"stop"}
    first, second = world.device.submits
    assert (first.sampling.seed, second.sampling.seed) == (2**64 - 1, 0)
    assert dict(first.sampling.logit_bias) == {65: -5.0}
    assert list(first.stop_ids) == [7]
    assert first.sampling.top_k == 0


BAD = [
    (b"{", 400, "the body is not JSON"),
    (b'{"messages": [{"role": "user", "content": "\xff"}]}', 400, "not UTF-8: bad byte at 43"),
    (b"[]", 400, "Expected `object`, got `array`"),
    (b'{"messages": [], "temperature": NaN}', 400, "the body is not JSON"),
    ({**HI, "temperatur": 1}, 400, "unknown field `temperatur`"),
    ({"messages": [{"role": "user", "content": "x", "mood": 1}]}, 400, "unknown field `mood`"),
    ({}, 400, "missing required field `messages`"),
    ({"messages": []}, 400, "messages is empty"),
    ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages[0].role is 'robot'"),
    ({"messages": [{"role": "user"}]}, 400, "messages[0] of role user has no content"),
    ({**HI, "temperature": -0.5}, 400, "temperature is -0.5; it must be in [0, 100]"),
    ({**HI, "temperature": "hot"}, 400, "Expected `float | null`, got `str`"),
    (b'{"messages":[{"role":"user","content":"x"}],"top_p":1e999}', 400, "out of range"),
    ({**HI, "top_p": 0}, 400, "top_p is 0.0; it must be in (0, 1]"),
    ({**HI, "max_tokens": 1000}, 400, "max_tokens is 1000, beyond the context"),
    ({**HI, "max_tokens": -1}, 400, "max_tokens is -1"),
    ({**HI, "max_tokens": 3, "max_completion_tokens": 4}, 400, "give one of them"),
    ({**HI, "n": 9}, 400, "n is 9; it must be in [1, 8]"),
    ({**HI, "seed": 2**64}, 400, "seed is 18446744073709551616"),
    ({**HI, "logit_bias": {"x": 1}}, 400, "logit_bias has the key 'x'"),
    ({**HI, "logit_bias": {"700": 1}}, 400, "logit_bias has token id 700"),
    ({**HI, "top_logprobs": 2}, 400, "top_logprobs needs logprobs"),
    ({**HI, "logprobs": True, "top_logprobs": 21}, 400, "logprobs.top is 21"),
    ({**HI, "stream_options": {"include_usage": True}}, 400, "stream_options needs stream"),
    ({**HI, "priority": "urgent"}, 400, "priority is 'urgent'"),
    ({**HI, "response_format": {"type": "json_schema", "json_schema": {}}}, 400, "json_schema"),
    ({**HI, "tool_choice": "required"}, 400, "tool_choice asks for a call and tools is empty"),
    ({**HI, "tool_choice": "any"}, 400, "tool_choice is 'any'; it must be one of auto, none"),
    ({**HI, "modalities": ["audio"]}, 400, "modalities other than text"),
    ({**HI, "model": "gpt"}, 404, "model 'gpt' is not served"),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
            ]
        },
        400,
        "messages[0].content[0] is neither a data URL nor http(s): 'x'",
    ),
    (b'{"messages":[{"role":"user","content":"\\ud800"}]}', 400, "the body is not JSON"),
    ({"messages": [{"role": "user", "content": "x" * 300}]}, 400, "the prompt has 317 tokens"),
]


@pytest.mark.parametrize(("body", "status", "text"), BAD, ids=[text[:45] for *_, text in BAD])
async def test_bad_chat_bodies(world: World, body: Any, status: int, text: str) -> None:
    got, reply = await post(world, "/v1/chat/completions", body)
    assert got == status
    assert text in reply["error"]["message"]
    assert set(reply["error"]) == {"message", "type", "param", "code"}
    assert reply["error"]["type"] == "invalid_request_error"
    assert world.device.submits == []
    assert sum(world.gateway.metrics.failures.values()) == 1


async def test_bodies_of_many_megabytes(world: World) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 20_000_000}]}).encode()
    got, reply = await post(world, "/v1/chat/completions", body)
    assert got == 413
    assert reply["error"]["message"] == f"the body has {len(body)} bytes, at most 20000000"

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 1 << 20):
            yield body[at : at + (1 << 20)]

    async with world.http.post(f"{world.url}/v1/chat/completions", data=chunks()) as response:
        assert response.status == 413
        assert "more than 20000000 bytes" in (await response.json())["error"]["message"]
    fits = json.dumps({"messages": [{"role": "user", "content": "x" * 10_000_000}]}).encode()
    got, reply = await post(world, "/v1/chat/completions", fits)
    assert got == 400
    assert "10000000 bytes and cannot fit the context of 256 tokens" in reply["error"]["message"]
    assert world.tokenizer.encodes == 0


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": []}, "the prompt is missing"),
        ({"prompt": [[]]}, "prompt[0] must be"),
        ({"prompt": ["a", 1]}, "prompt[1] must be"),
        ({"prompt": [1, 999]}, "prompt has token id 999"),
        ({"prompt": [-1]}, "token id -1"),
        ({"prompt": "a", "suffix": "b"}, "suffix is not supported"),
        ({"prompt": "a", "best_of": 3}, "best_of is 3"),
        ({"prompt": "a", "echo": True, "logprobs": 1}, "echo with logprobs"),
        ({"prompt": ["a"] * 65}, "65 prompts in one request, at most 64"),
    ],
)
async def test_bad_completion_bodies(world: World, body: Any, text: str) -> None:
    got, reply = await post(world, "/v1/completions", body)
    assert got == 400
    assert text in reply["error"]["message"]


async def test_parts_tools_and_returned_answers_are_taken(world: World) -> None:
    body = {
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "be "}]},
            {"role": "user", "content": "x"},
            {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "annotations": [],
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            {"role": "tool", "content": "42", "tool_call_id": "1"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "tool_choice": "auto",
        "metadata": {"a": "b"},
    }
    got, reply = await post(world, "/v1/chat/completions", body)
    assert got == 200
    text = reply["choices"][0]["message"]["content"]
    assert text == "<SYSTEM>BE <USER>X<ASSISTANT><TOOL>42<ASSISTANT>"


async def test_unknown_routes_have_openai_errors(world: World) -> None:
    got, reply = await post(world, "/v1/nothing", {})
    assert got == 404
    assert "POST /v1/nothing" in reply["error"]["message"]
    async with world.http.get(f"{world.url}/v1/chat/completions") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "POST"


async def test_tokenize_and_detokenize(world: World) -> None:
    got, reply = await post(
        world, "/tokenize", {"prompt": "hé", "return_token_strs": True, "model": "fake"}
    )
    assert got == 200
    assert reply == {
        "count": 3,
        "max_model_len": 256,
        "tokens": list("hé".encode()),
        "token_strs": ["h", "�", "�"],
    }
    _, reply = await post(world, "/tokenize", HI)
    assert bytes(reply["tokens"]) == b"<user>hi<assistant>"
    _, reply = await post(world, "/detokenize", {"tokens": list("hé".encode())})
    assert reply == {"prompt": "hé"}
    got, reply = await post(world, "/detokenize", {"tokens": [-1]})
    assert got == 400
    got, reply = await post(world, "/tokenize", {"prompt": "x", "messages": []})
    assert got == 400


async def test_the_old_route_whole(world: World) -> None:
    body = {"question": "b", "history": ["q", "a"], "stream": False}
    got, reply = await post(world, "/chat/completions", body)
    assert got == 200
    assert reply == {"data": "<USER>Q<ASSISTANT>A<USER>B<ASSISTANT>"}
    got, reply = await post(world, "/chat/completions", {"question": ""})
    assert got == 400


async def test_the_old_route_streams_the_whole_answer_each_time(world: World) -> None:
    text = await raw_stream(world, "/chat/completions", {"question": "a\nb", "stream": True})
    blocks = text.split("\r\n\r\n")
    assert blocks[-1] == ""
    answers = [
        "\n".join(line.removeprefix("data: ") for line in block.split("\r\n"))
        for block in blocks[:-1]
    ]
    assert answers[-1] == "<USER>A\nB<ASSISTANT>"
    assert all(late.startswith(early) for early, late in itertools.pairwise(answers))
    assert "[DONE]" not in text


async def test_the_timeout_header(world: World) -> None:
    world.device.hold()
    body = {"prompt": "long"}
    got, reply = await post(world, "/v1/completions", body, **{"X-Request-Timeout-S": "0.2"})
    assert got == 504
    assert reply["error"]["type"] == "timeout_error"
    await eventually(lambda: len(world.device.cancels) == 1)
    for bad in ("-1", "0", "nan", "inf", "soon"):
        got, reply = await post(world, "/v1/completions", body, **{"X-Request-Timeout-S": bad})
        assert got == 400
        assert repr(bad) in reply["error"]["message"]


async def test_a_deadline_in_a_stream_ends_it_with_an_error(world: World) -> None:
    world.device.hold()
    world.device.allow(2)
    async with world.http.post(
        f"{world.url}/v1/completions",
        json={"prompt": "long", "stream": True},
        headers={"X-Request-Timeout-S": "0.3"},
    ) as response:
        data = events((await response.read()).decode())
    assert "".join(d["choices"][0]["text"] for d in data if "choices" in d) == "01"
    assert data[-1]["error"]["code"] == "deadline_exceeded"
    assert world.gateway.metrics.failures["DEADLINE_EXCEEDED", True] == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_frees_its_slot(world: World, stream: bool) -> None:
    world.device.hold()
    reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.http_port)
    body = json.dumps({"prompt": "long", "stream": stream}).encode()
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
        % (len(body), body)
    )
    await eventually(lambda: len(world.device.running) == 1)
    if stream:
        world.device.allow(3)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()
    await eventually(lambda: len(world.device.cancels) == 1)
    await eventually(lambda: world.gateway.service.active == 0)
    assert not world.device.running


async def test_health_and_readiness(start: Start) -> None:
    device = FakeDevice()
    async with start(device) as world:
        async with world.http.get(f"{world.url}/health") as response:
            assert response.status == 200
        async with world.http.get(f"{world.url}/ready") as response:
            assert response.status == 200
            assert (await response.json())["models"] == ["fake"]
        await device.set_serving(False)
        await eventually(lambda: not world.gateway.readiness()[0])
        async with world.http.get(f"{world.url}/ready") as response:
            assert response.status == 503
            assert f"device {device.address}: not serving" in (await response.json())["reason"]
        got, reply = await post(world, "/v1/completions", {"prompt": "x"})
        assert got == 503
        assert reply["error"]["message"] == "no healthy device serves model fake"


async def test_32_at_once_answer_as_one_after_another(world: World) -> None:
    async def ask(i: int) -> str:
        body = {"prompt": f"request {i}", "seed": i, "temperature": 1}
        _, reply = await post(world, "/v1/completions", body)
        return str(reply["choices"][0]["text"])

    serial = [await ask(i) for i in range(32)]
    assert await asyncio.gather(*map(ask, range(32))) == serial
    assert serial[5] == "REQUEST 55"
