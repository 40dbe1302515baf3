"""What is shown while nets are compiled, and what is left when one of them fails."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from compiler.environment import Environment, find_python310
from compiler.errors import CompileError
from compiler.progress import Progress
from compiler.report import keep_log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def compile_nets(work: Path, commands: dict[str, str], stream: io.StringIO) -> Progress:
    """What the converter does, with a shell command in place of each net's compilation."""
    nets = work / "nets" / "build"
    for net in commands:
        (nets / net).mkdir(parents=True)
        (nets / net / f"{net}.mlir").touch()
    lines = [
        f"(pushd {net} && {command} && popd ) > {net}.log" for net, command in commands.items()
    ]
    tasks = work / "task.txt"
    tasks.write_text("\n".join(lines))
    programs = work / "environment" / "bin"
    programs.mkdir(parents=True)
    converter = programs / "convert"
    converter.write_text(f"#!/bin/sh\ncd {nets} && parallel -j 1 < {tasks}\n")
    converter.chmod(0o755)
    (programs / "python3").symlink_to(sys.executable)
    progress = Progress(work / "events", stream)
    Environment(work / "environment").run(
        ["convert"], work / "compile.log", work, progress=progress
    )
    return progress


def test_one_line_per_net_where_there_is_no_terminal(tmp_path: Path) -> None:
    stream = io.StringIO()
    progress = compile_nets(tmp_path, {"lm_head": "true", "block_0": "true"}, stream)
    assert progress.done == 2
    laid_out, first, second = stream.getvalue().splitlines()
    assert laid_out.startswith("laid out 2 nets in ")
    assert first.startswith("1 of 2: lm_head, ")
    assert second.startswith("2 of 2: block_0, ")
    assert second.endswith(" s")


def test_one_changing_line_on_a_terminal(tmp_path: Path) -> None:
    stream = Terminal()
    events = tmp_path / "events"
    progress = Progress(events, stream)
    progress.poll()
    assert stream.getvalue().endswith("laying out nets and weights, 0 s")
    events.write_text('{"event": "round", "nets": 3}\n{"event": "started", "net": "block_0"}\n{"ev')
    progress.poll()
    assert stream.getvalue().endswith("s: block_0")
    assert "0 of 3 nets" in stream.getvalue()
    with events.open("a") as file:
        file.write('ent": "finished", "net": "block_0", "seconds": 2.5, "status": 0, "log": "x"}\n')
        file.write('{"event": "started", "net": "block_1"}\n')
    progress.poll()
    assert "\r\x1b[K1 of 3 nets" in stream.getvalue()
    assert "block_0" not in stream.getvalue().rpartition("\r")[2]
    progress.close()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_a_failing_net_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    commands = {
        "lm_head": "true",
        "block_0": "seq 100 && (echo no room >&2; exit 7)",
        "late": "true",
    }
    with pytest.raises(CompileError) as failed:
        compile_nets(tmp_path, commands, io.StringIO())
    text = str(failed.value)
    assert "net block_0 did not compile (status 7)" in text
    assert "  | 100\n  | no room" in text
    assert "  | 1\n" not in text
    kept = keep_log(tmp_path, tmp_path / "model").read_text()
    assert "== block_0.log" in kept
    assert "\n1\n2\n" in kept


def test_what_is_interrupted_leaves_no_process(tmp_path: Path) -> None:
    class Interrupted(Progress):
        def poll(self) -> None:
            if (tmp_path / "pid").exists():
                raise KeyboardInterrupt

    programs = tmp_path / "bin"
    programs.mkdir()
    converter = programs / "convert"
    converter.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nsleep 60\n")
    converter.chmod(0o755)
    progress = Interrupted(tmp_path / "events", io.StringIO())
    with pytest.raises(KeyboardInterrupt):
        Environment(tmp_path).run(["convert"], tmp_path / "log", tmp_path, progress=progress)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_missing_python_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("PYENV_ROOT", raising=False)
    monkeypatch.delenv("TPUSERVE_PYTHON310", raising=False)
    with pytest.raises(CompileError) as failed:
        find_python310()
    for place in ("python3.10 on PATH", f"{tmp_path}/.pyenv/versions", "set TPUSERVE_PYTHON310"):
        assert place in str(failed.value)
    monkeypatch.setenv("TPUSERVE_PYTHON310", sys.executable + "-absent")
    with pytest.raises(CompileError, match=r"TPUSERVE_PYTHON310 \(.*-absent\)"):
        find_python310()
