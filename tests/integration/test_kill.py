"""Processes are killed while answers stream: the client sees the same answer as without."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.supervised import MODEL, Up, up
from tpuserve.client import Client, Delta, Finished, FinishReason, Message, Options

QUESTION = [Message("user", "Tell me about the BM1684X.")]
SEEDED = Options(max_tokens=48, temperature=1.2, top_p=0.95, seed=7, ignore_eos=True, logprobs=1)
PENALISED = Options(
    max_tokens=48, temperature=0, repetition_penalty=1.3, frequency_penalty=0.5, ignore_eos=True
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("up"), "--model", str(MODEL), "--slots", "4") as running:
        running.wait_for(r"gRPC   (\S+)")
        yield running


@pytest.fixture
def client(server: Up) -> Iterator[Client]:
    with Client(server.wait_for(r"gRPC   (\S+)").group(1)) as connected:
        yield connected


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
    broken = answer(client, options, after=after, kill="device_svc", server=server)
    assert broken == unbroken


def test_a_killed_tokenizer_does_not_show(server: Up, client: Client) -> None:
    unbroken = answer(client, SEEDED, server=server)
    assert answer(client, SEEDED, after=20, kill="tokenizer_svc", server=server) == unbroken


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
