"""The stand-in modules give the converter the numbers that the real ones give."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from compiler.environment import STANDINS, Environment

READ_ALL = """
import sys, numpy, safetensors
with safetensors.safe_open(sys.argv[1], "pt") as file:
    numpy.savez(sys.argv[2], **{k: file.get_tensor(k).float().numpy() for k in file.keys()})
"""

ROUND_TRIP = """
import sys, numpy, torch
rounded = torch.from_numpy(numpy.load(sys.argv[1])).to(torch.bfloat16)
numpy.save(sys.argv[2], rounded.float().numpy())
"""


def run(script: str, *arguments: Path) -> None:
    environment = Environment(Path("unused")).variables(os.environ)
    command = [sys.executable, "-c", script, *map(str, arguments)]
    subprocess.run(command, env=environment, check=True)


def test_safetensors_are_read_as_float32(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors: dict[str, NDArray[Any]] = {
        "half": rng.standard_normal((3, 5)).astype(np.float16),
        "single": rng.standard_normal((2, 2, 2)).astype(np.float32),
        "scalar": np.array(7, np.int32),
    }
    save_file(tensors, tmp_path / "w.safetensors", metadata={"format": "pt"})
    run(READ_ALL, tmp_path / "w.safetensors", tmp_path / "read.npz")
    read = np.load(tmp_path / "read.npz")
    assert set(read) == set(tensors)
    for name, wanted in tensors.items():
        assert read[name].dtype == np.float32
        np.testing.assert_array_equal(read[name], wanted.astype(np.float32))


def test_bfloat16_is_read_from_its_bits(tmp_path: Path) -> None:
    bits = np.array([0x3F80, 0xC61C, 0x0000], np.uint16)
    header = {"b": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bits.tobytes()
    (tmp_path / "w.safetensors").write_bytes(content)
    run(READ_ALL, tmp_path / "w.safetensors", tmp_path / "read.npz")
    np.testing.assert_array_equal(np.load(tmp_path / "read.npz")["b"], [1.0, -9984.0, 0.0])


def test_bfloat16_rounds_to_nearest_even(tmp_path: Path) -> None:
    # bfloat16 has 8 significant bits: 257 lies between 256 and 258, 259 between 258 and 260.
    np.save(tmp_path / "in.npy", np.array([1.0, 257.0, 259.0, -3.0], np.float32))
    run(ROUND_TRIP, tmp_path / "in.npy", tmp_path / "out.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), [1.0, 256.0, 260.0, -3.0])


def parallel(commands: str, log: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(STANDINS / "bin" / "parallel"), "-j", "2"]
    command += ["--halt", "now,fail=1", "--progress", "--joblog", str(log)]
    return subprocess.run(command, input=commands, text=True, capture_output=True, check=False)


def test_parallel_runs_every_line(tmp_path: Path) -> None:
    lines = "".join(f"(echo {i}) > {tmp_path}/{i}\n" for i in range(5))
    assert parallel(lines, tmp_path / "log").returncode == 0
    assert [(tmp_path / str(i)).read_text() for i in range(5)] == [f"{i}\n" for i in range(5)]


def test_parallel_reports_the_line_that_failed(tmp_path: Path) -> None:
    done = parallel("true\nexit 3\n", tmp_path / "log")
    assert done.returncode == 1
    assert "failed with status 3: exit 3" in done.stderr
