"""The command line itself: help, wrong usage, one-line errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tpuserve.cli.__main__ import COMMANDS, main

ROOT = Path(__file__).resolve().parents[3]
HISTORY = ROOT / "models" / "demo"


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for command in COMMANDS:
        assert f"  {command} " in printed


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: tpuserve {command}" in capsys.readouterr().out


def test_wrong_usage_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    for arguments in (["serve"], ["up"], ["complete"], ["emulator"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    assert "--model" in capsys.readouterr().err


def test_help_imports_no_command() -> None:
    """Help must not wait for gRPC, which takes longer to import than all else."""
    script = (
        "import sys\n"
        "from tpuserve.cli.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "raise SystemExit('grpc' in sys.modules or 'tpuserve.client' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["inspect", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err == f"tpuserve: {tmp_path}/nowhere: No such file or directory\n"


def test_inspect_prints_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(HISTORY)]) == 0
    page = capsys.readouterr().out
    for part in (
        "3 layers, hidden size 128, 2 KV heads of 32, float16, 1024 logits",
        "context 512 tokens, prompt at most 511, prefill 64 at a time",
        "decode nets for 512, 256, 128, 64",
        "768 B per token, 384 KiB per slot",
        "Hugging Face (tokenizer.json)",
        "as tpuserve.toml asks",
        "block_cache_0 … 2  (static, own io memory)",
        "or   attention_mask f16[1×1×1×65], history_k f16[1×64×2×32]",
    ):
        assert part in page


def test_inspect_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    file = next(HISTORY.glob("*.bmodel"))
    assert main(["inspect", str(file), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["language_model"]["kv_bytes_per_slot"] == 512 * 768
    [memory] = document["memory"]
    assert memory["total_bytes"] > memory["weights_bytes"]
    names = [net["name"] for net in document["nets"]]
    assert "block_kv_2" in names
    assert document["tokenizer"] is None


def test_inspect_names_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.bmodel"
    broken.write_bytes(next(HISTORY.glob("*.bmodel")).read_bytes()[:100_000])
    assert main(["inspect", str(broken)]) == 1
    assert "truncated: it has 100000 bytes, its header promises" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path)]) == 1
    assert "config" in capsys.readouterr().err


def test_a_closed_pipe_is_no_traceback() -> None:
    script = "from tpuserve.cli.__main__ import main; raise SystemExit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", script, "inspect", str(HISTORY), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_emulator_path_needs_verified_files(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TPUSERVE_EMULATOR_DIR", str(tmp_path))
    assert main(["emulator", "path"]) == 1
    assert "run `tpuserve emulator install`" in capsys.readouterr().err
    assert main(["emulator", "install", "--wheel", str(tmp_path / "no.whl")]) == 1
    assert "no.whl does not exist" in capsys.readouterr().err


def test_compile_hands_its_arguments_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compile", "nowhere", "--seq", "64", "--estimate", "--no-such-option"])
    assert ended.value.code == 2
    assert "tpuserve compile: error: unrecognized arguments: --no-such-option" in (
        capsys.readouterr().err
    )


def test_compile_runs_the_installed_compiler_and_no_other(tmp_path: Path) -> None:
    # The current directory may hold anything.
    (tmp_path / "compiler").mkdir()
    (tmp_path / "compiler" / "__main__.py").write_text("raise SystemExit('another')")
    script = "import sys; from tpuserve.cli.__main__ import main; sys.exit(main(sys.argv[1:]))"
    program = tmp_path / "bin" / "tpuserve"
    program.parent.mkdir()
    program.write_text(script)
    done = subprocess.run(
        [sys.executable, str(program), *["compile", "absent", "-o", "out", "--seq", "64"]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: absent/config.json does not exist")
