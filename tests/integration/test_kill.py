"""Processes are killed while answers stream: the client sees the same answer as without."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.supervised import MODEL, Up, up
from tpuserve.client import Client, Delta, Finished, FinishReason, Message, Options

QUESTION = [Message("user", "Tell me about the BM1684X.")]
SEEDED = Options(max_tokens=150, temperature=1.2, top_p=0.95, seed=7, ignore_eos=True, logprobs=1)
PENALISED = Options(
    max_tokens=150, temperature=0, repetition_penalty=1.3, frequency_penalty=0.5, ignore_eos=True
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("up"), "--model", str(MODEL), "--slots", "4") as running:
        running.wait_for(r"gRPC   (\S+)")
        yield running


@pytest.fixture
def client(server: Up) -> Iterator[Client]:
    wait_until_ready(server)
    with Client(server.wait_for(r"gRPC   (\S+)").group(1)) as connected:
        yield connected


def page(server: Up, path: str) -> str:
    http = server.wait_for(r"HTTP   (\S+)/v1").group(1)
    with urllib.request.urlopen(f"{http}{path}", timeout=10) as reply:
        return str(reply.read(), "utf-8")


def wait_until_ready(server: Up) -> None:
    """A service that an earlier test killed is back."""
    deadline_s = time.monotonic() + 20
    while True:
        try:
            page(server, "/ready")
            return
        except urllib.error.HTTPError:
            assert time.monotonic() < deadline_s, server.log
            time.sleep(0.05)


def rescued(server: Up, peer: str) -> int:
    """Completions that outlived a lost peer."""
    sample = rf'tpuserve_failovers_total{{model="tpuserve-demo",peer="{peer}"}} (\d+)'
    found = re.search(sample, page(server, "/metrics"))
    assert found is not None
    return int(found.group(1))


def answer(client: Client, options: Options, *, after: int = -1, kill: str = "", server: Up) -> str:
    """Everything that a stream tells; kills a service once `after` tokens have come."""
    text, ids, logprobs = "", list[int](), list[object]()
    for chunk in client.chat(QUESTION, options):
        if isinstance(chunk, Delta):
            text += chunk.text
            ids += chunk.token_ids
            logprobs += chunk.logprobs
            if kill and len(ids) >= after:
                server.child(kill).kill()
                kill = ""
        elif isinstance(chunk, Finished):
            assert chunk.reason is FinishReason.LENGTH
    assert len(ids) == options.max_tokens
    assert not kill
    return repr((text, ids, logprobs))


# Few, for the supervisor waits twice as long before each restart of a service that keeps dying.
@pytest.mark.parametrize(
    ("options", "after"),
    [(SEEDED, 1), (SEEDED, 17), (PENALISED, 40)],
    ids=["seeded-1", "seeded-17", "penalised-40"],
)
def test_a_killed_device_does_not_show(
    server: Up, client: Client, options: Options, after: int
) -> None:
    unbroken = answer(client, options, server=server)
    before = rescued(server, "device")
    broken = answer(client, options, after=after, kill="device_svc", server=server)
    assert broken == unbroken
    assert rescued(server, "device") == before + 1


def test_a_killed_tokenizer_does_not_show(server: Up, client: Client) -> None:
    unbroken = answer(client, SEEDED, server=server)
    before = rescued(server, "tokenizer")
    assert answer(client, SEEDED, after=20, kill="tokenizer_svc", server=server) == unbroken
    assert rescued(server, "tokenizer") == before + 1


def test_32_clients_at_once_get_what_they_get_alone(client: Client) -> None:
    questions = [
        [Message("user", f"{text} {number}?")]
        for number in range(8)
        for text in ("What is gRPC", "How much is 3 plus", "Hello", "What is a slot")
    ]

    def ask(number: int) -> tuple[int, ...]:
        options = Options(max_tokens=5, temperature=0.8, seed=number, ignore_eos=True)
        return tuple(client.chat_once(questions[number], options).completions[0].token_ids)

    alone = [ask(number) for number in range(32)]
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(ask, range(32)))
    assert together == alone
    assert len(set(alone)) > 8


def test_no_request_was_lost_or_left_over(server: Up, client: Client) -> None:
    """The last test of the module: every slot is free again."""
    done = client.chat_once(QUESTION, Options(max_tokens=2, ignore_eos=True))
    assert done.usage.completion_tokens == 2
    assert "gateway was" not in server.log
