"""`chat` and `complete` against a server that answers what the question says."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import fake_gateway
from tests.support.fake_gateway import FakeGateway
from tpuserve.cli.__main__ import main

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = "from tpuserve.cli.__main__ import main; raise SystemExit(main())"


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with fake_gateway.serving() as running:
        yield running


def chat(gateway: FakeGateway, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, "chat", "--address", gateway.address, *options]
    return subprocess.run(
        command, input=text, capture_output=True, text=True, cwd=ROOT, check=False, timeout=25
    )


def said(gateway: FakeGateway) -> list[list[str]]:
    return [[m.content[0].text for m in request.messages] for request in gateway.chats]


def test_complete_prints_the_text(gateway: FakeGateway, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--max-tokens", "5", "--temperature", "0", "--seed", "4", "--stop", "a"]
    address = ["--address", gateway.address]
    assert main(["complete", "words 3", *address, *options, "--stop", "b"]) == 0
    assert capsys.readouterr().out == "w0 w1 w2 \n"
    request = gateway.generates[0]
    assert (request.stopping.max_tokens, list(request.stopping.stop)) == (5, ["a", "b"])
    assert (request.sampling.temperature, request.sampling.seed) == (0, 4)
    assert request.sampling.HasField("temperature")
    assert not request.sampling.HasField("top_p")


def test_the_answers_form_is_asked_for(gateway: FakeGateway, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "null"}')
    complete = ["complete", "words 1", "--address", gateway.address]
    assert main([*complete, "--json-schema", str(schema)]) == 0
    assert main([*complete, "--regex", "a+"]) == 0
    asked = [request.output_format for request in gateway.generates]
    assert (asked[0].json_schema, asked[1].regex) == ('{"type": "null"}', "a+")
    chat(gateway, "words 1\n", "--regex", "b")
    assert gateway.chats[0].output_format.regex == "b"


def test_a_schema_that_cannot_be_read_is_named(
    gateway: FakeGateway, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    complete = ["complete", "words 1", "--address", gateway.address, "--json-schema"]
    assert main([*complete, str(tmp_path / "none.json")]) == 1
    assert "none.json" in capsys.readouterr().err
    (tmp_path / "bytes.json").write_bytes(b"\xff")
    assert main([*complete, str(tmp_path / "bytes.json")]) == 1
    assert "bytes.json" in capsys.readouterr().err
    assert gateway.generates == []


def test_complete_reports_an_error(
    gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["complete", "NOT_FOUND", "--address", gateway.address]) == 1
    assert capsys.readouterr().err == "tpuserve: this is NOT_FOUND\n"


def test_without_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["complete", "x", "--address", "127.0.0.1:9"]) == 1
    printed = capsys.readouterr().err
    assert "no server answers at 127.0.0.1:9; start one with `tpuserve up --model DIR`" in printed


def test_chat_remembers_and_forgets(gateway: FakeGateway) -> None:
    lines = "words 2\n\nwords 1\nclear\nwords 1\nNOT_FOUND\n  words 1  \nquit\nwords 9\n"
    result = chat(gateway, lines, "--system", "Be brief.")
    assert result.returncode == 0
    assert "Be brief.w0 w1 " in result.stdout
    first = ["Be brief.", "words 2"]
    assert said(gateway) == [
        first,
        [*first, "Be brief.w0 w1 ", "words 1"],
        ["Be brief.", "words 1"],
        ["Be brief.", "words 1", "Be brief.w0 ", "NOT_FOUND"],
        # A question that failed is not part of the conversation.
        ["Be brief.", "words 1", "Be brief.w0 ", "words 1"],
    ]
    assert "(this is NOT_FOUND)" in result.stderr
    assert len(re.findall(r"FTL: \d+\.\d{3} s\nTPS: \d+\.\d{3} token/s", result.stdout)) == 4


def test_chat_shows_thoughts_and_calls_and_asks_for_results(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    tools = tmp_path / "tools.json"
    tools.write_text(
        '[{"name": "f", "description": "d", "parameters": {"type": "object"}},'
        ' {"type": "function", "function": {"name": "g"}}]'
    )
    result = chat(gateway, "call f\nwords 1\ncall g\n\n", "--tools", str(tools), "--no-thinking")
    assert result.returncode == 0, result.stderr
    assert '(thinks) Hm.\n(calls) f {"x": 1}\n' in result.stdout
    assert "result of f> w0" in result.stdout
    asked = gateway.chats[0]
    assert [(tool.name, tool.parameters_json) for tool in asked.tools] == [
        ("f", '{"type": "object"}'),
        ("g", ""),
    ]
    assert asked.HasField("thinking")
    assert not asked.thinking
    _, made, answered = gateway.chats[1].messages
    assert (made.tool_calls[0].id, made.reasoning, list(made.content)) == ("call_0", "Hm.", [])
    assert (answered.tool_call_id, answered.content[0].text) == ("call_0", "words 1")
    # A call whose result is left out is forgotten, with its question.
    assert [m.role for m in gateway.chats[2].messages] == [2, 3, 4, 3, 2]
    assert len(gateway.chats) == 3


@pytest.mark.parametrize("text", ["{}", "[{}]", "[1]", "no JSON"])
def test_chat_names_a_bad_file_of_tools(
    gateway: FakeGateway, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = tmp_path / "tools.json"
    tools.write_text(text)
    assert main(["chat", "--address", gateway.address, "--tools", str(tools)]) == 1
    assert str(tools) in capsys.readouterr().err


@pytest.mark.parametrize("word", ["exit", "quit", "q", ""])
def test_chat_ends(gateway: FakeGateway, word: str) -> None:
    result = chat(gateway, f"words 1\nnew\n{word}\n" if word else "words 1\n")
    assert result.returncode == 0
    assert len(gateway.chats) == 1


class Terminal:
    """The user's side of a pseudo-terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._text = ""

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def expect(self, text: str) -> None:
        """Wait until `text` was printed behind what was expected before."""
        deadline_s = time.monotonic() + 15
        while text not in self._text:
            assert time.monotonic() < deadline_s, self._text
            self._read(0.2)
        self._text = self._text.partition(text)[2]

    def type_until(self, key: str, done: Callable[[str], bool]) -> None:
        """Press a key once a second, as a user would, until `done` with what was printed since.

        Once may not do: input() misses a key that comes between its prompt and its read.
        """
        deadline_s = time.monotonic() + 15
        while not done(self._text):
            assert time.monotonic() < deadline_s, self._text
            self.type(key)
            again_s = time.monotonic() + 1
            while time.monotonic() < again_s and not done(self._text):
                self._read(0.05)
        self._text = ""

    def _read(self, timeout_s: float) -> None:
        if select.select([self._descriptor], [], [], timeout_s)[0]:
            # The other side's end shows as an error on a pseudo-terminal.
            with contextlib.suppress(OSError):
                self._text += os.read(self._descriptor, 4096).decode()


@contextmanager
def on_a_terminal(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Terminal]]:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "tests.support.on_terminal", *arguments]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, start_new_session=True
    ) as process:
        os.close(theirs)
        try:
            yield process, Terminal(ours)
        finally:
            process.kill()
            os.close(ours)


def test_ctrl_c_stops_the_answer_and_not_the_chat(gateway: FakeGateway) -> None:
    with on_a_terminal("chat", "--address", gateway.address) as (process, terminal):
        terminal.expect("> ")
        terminal.type("hang\n")
        terminal.expect("w0")
        terminal.type("\x03")
        terminal.expect("(stopped)")
        assert gateway.cancelled.wait(10)
        terminal.expect("> ")
        terminal.type_until("\x03", lambda printed: "> " in printed)
        terminal.type("words 1\n")
        terminal.expect("TPS")
        terminal.type_until("\x04", lambda _: process.poll() is not None)
        assert process.returncode == 0
    assert said(gateway) == [["hang"], ["words 1"]]
