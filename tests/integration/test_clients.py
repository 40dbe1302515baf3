"""Clients that share no code with the server: each streams an answer, and it is the same one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest

from bench.processes import Stack
from tests.support import tools
from tpuserve.client import Client, Message, Options
from tpuserve.v1 import device_pb2, device_pb2_grpc

NODE_CLIENT = Path(__file__).resolve().parents[1] / "clients" / "node"
QUESTION = "What is a BM1684X?"
MAX_TOKENS = 24
REQUEST: dict[str, Any] = {
    "messages": [{"role": "ROLE_USER", "content": [{"text": QUESTION}]}],
    "sampling": {"temperature": 0},
    "stopping": {"maxTokens": MAX_TOKENS, "ignoreEos": True},
}


@pytest.fixture(scope="module")
def answer(stack: Stack) -> str:
    """What every client shall get; from the Python client, in one reply."""
    options = Options(temperature=0, max_tokens=MAX_TOKENS, ignore_eos=True)
    with Client(stack.address) as client:
        (completion,) = client.chat_once([Message("user", QUESTION)], options).completions
    assert completion.text
    return completion.text


@pytest.fixture(scope="module")
def node() -> str:
    """The program, with the client's packages in place."""
    program = tools.require("node", package="Node.js 18 or later")
    npm = tools.require("npm", package="Node.js 18 or later")
    installed = NODE_CLIENT / "node_modules" / ".package-lock.json"
    lock = NODE_CLIENT / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        command = [npm, "ci", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=NODE_CLIENT, capture_output=True, text=True, timeout=25)
        assert done.returncode == 0, done.stderr
    return program


def _node_chat(
    node: str, stack: Stack, request: dict[str, Any], *, cancel_after_deltas: int = 0
) -> dict[str, Any]:
    done = subprocess.run(
        [
            *(node, str(NODE_CLIENT / "chat.js"), stack.address),
            *(json.dumps(request), str(cancel_after_deltas)),
        ],
        capture_output=True,
        text=True,
        timeout=25,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def test_grpc_js_streams_the_answer(node: str, stack: Stack, answer: str) -> None:
    seen = _node_chat(node, stack, REQUEST)
    assert seen["status"]["code"] == "OK"
    assert "".join(delta.get("text", "") for delta in seen["deltas"]) == answer
    # Streamed: not all in one.
    assert len(seen["deltas"]) > 1
    assert sum(len(delta["tokenIds"]) for delta in seen["deltas"]) == MAX_TOKENS
    assert seen["finished"]["reason"] == "FINISH_REASON_LENGTH"
    assert seen["finished"]["usage"]["completionTokens"] == MAX_TOKENS
    assert seen["started"]["promptTokens"] == seen["finished"]["usage"]["promptTokens"]


def test_grpc_js_gets_a_typed_error(node: str, stack: Stack) -> None:
    seen = _node_chat(node, stack, {**REQUEST, "model": "no-such-model"})
    assert seen["status"]["code"] == "NOT_FOUND"
    assert "no-such-model" in seen["status"]["details"]
    assert seen["deltas"] == []


def test_grpc_js_cancels_and_the_slot_is_free(node: str, stack: Stack) -> None:
    endless = {**REQUEST, "stopping": {"ignoreEos": True}}
    seen = _node_chat(node, stack, endless, cancel_after_deltas=2)
    assert seen["status"]["code"] == "CANCELLED"
    assert len(seen["deltas"]) == 2
    deadline_s = time.monotonic() + 10
    with grpc.insecure_channel(stack.device_address) as channel:
        device = device_pb2_grpc.DeviceStub(channel)
        while (load := device.GetLoad(device_pb2.GetLoadRequest())).running > 0:
            assert time.monotonic() < deadline_s, load
        info = device.GetInfo(device_pb2.GetDeviceInfoRequest())
    assert load.free_slots == info.slots


@pytest.fixture(scope="module")
def buf() -> str:
    program = shutil.which("buf", path=str(Path(sys.executable).parent))
    assert program is not None, "buf-bin is not installed"
    return program


def _buf_curl(buf: str, stack: Stack, *arguments: str) -> str:
    # No --schema: buf asks the server's reflection service, as grpcurl would.
    command = [buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=25)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _json_values(text: str) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder()
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        yield value
        text = text[end:]


def test_reflection_lists_the_methods(buf: str, stack: Stack) -> None:
    listed = _buf_curl(buf, stack, "--list-methods", f"http://{stack.address}")
    for method in ("Chat", "ChatOnce", "Generate", "Tokenize", "Detokenize", "ListModels"):
        assert f"tpuserve.v1.Generation/{method}" in listed.splitlines()


def test_reflection_client_streams_the_answer(buf: str, stack: Stack, answer: str) -> None:
    url = f"http://{stack.address}/tpuserve.v1.Generation/Chat"
    chunks = list(_json_values(_buf_curl(buf, stack, "--data", json.dumps(REQUEST), url)))
    assert "started" in chunks[0]
    assert chunks[-1]["finished"]["reason"] == "FINISH_REASON_LENGTH"
    deltas = [chunk["delta"] for chunk in chunks if "delta" in chunk]
    assert "".join(delta.get("text", "") for delta in deltas) == answer
    assert len(deltas) > 1


@pytest.fixture
def sdk(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{stack.http_url}/v1", api_key="none", max_retries=0, timeout=25
    ) as client:
        yield client


def _model(sdk: openai.OpenAI) -> str:
    (model,) = sdk.models.list().data
    return model.id


def test_openai_sdk_streams_the_answer(sdk: openai.OpenAI, answer: str) -> None:
    stream = sdk.chat.completions.create(
        model=_model(sdk),
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=MAX_TOKENS,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == answer
    assert sum(bool(text) for text in texts) > 1
    (reason,) = {c.finish_reason for chunk in chunks for c in chunk.choices} - {None}
    assert reason == "length"
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens == MAX_TOKENS


def test_openai_sdk_gets_the_answer_at_once(sdk: openai.OpenAI, answer: str) -> None:
    reply = sdk.chat.completions.create(
        model=_model(sdk),
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=MAX_TOKENS,
        extra_body={"ignore_eos": True},
    )
    assert reply.choices[0].message.content == answer
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == MAX_TOKENS


def test_openai_sdk_gets_a_typed_error(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no-such-model"):
        sdk.chat.completions.create(
            model="no-such-model", messages=[{"role": "user", "content": QUESTION}]
        )
