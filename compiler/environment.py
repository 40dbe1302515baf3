"""The compiler's own Python 3.10 environment: made once, checked by hash, without torch.

The vendor's compiler is built for CPython 3.10. Modules that it imports at start and that
converting a
language model does not need (torch, cv2, …) are small stand-ins of our own in `standins/`; the
command
`parallel`, which it calls, is in `standins/bin`.
"""

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.errors import CompileError

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"
STANDINS = HERE / "standins"
COMPILER_VERSION = "1.30.2"

# Shipped beside the compiler's libraries; on another glibc they break every process that finds
# them first.
_FOREIGN_LIBC = ("libc.so.6", "libm.so.6", "libpthread.so.0")


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment at `path`, ready after `prepare`."""

    path: Path

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    def prepare(self) -> None:
        """Make the environment unless an equal one is there. Raises CompileError."""
        stamp = self.path / "requirements.sha256"
        wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
        if stamp.exists() and stamp.read_text() == wanted:
            return
        if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            raise CompileError("the compiler runs on x86-64 Linux only")
        print(
            f"making the compiler's environment in {self.path} (300 MB download, once)", flush=True
        )
        shutil.rmtree(self.path, ignore_errors=True)
        _run([str(find_python310()), "-m", "venv", str(self.path)])
        pip = [str(self.python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        _run(
            [*pip, "--no-deps", "--require-hashes", "--only-binary=:all:", "-r", str(REQUIREMENTS)]
        )
        for library in _FOREIGN_LIBC:
            for found in self.path.glob(f"lib/python3.10/site-packages/tpu_mlir/lib/**/{library}"):
                found.unlink()
        stamp.write_text(wanted)

    def variables(self, outer: Mapping[str, str]) -> dict[str, str]:
        """Process environment for the compiler's commands, on top of `outer`."""
        path = os.pathsep.join(
            [str(STANDINS / "bin"), str(self.path / "bin"), outer.get("PATH", os.defpath)]
        )
        return {**outer, "PATH": path, "PYTHONPATH": str(STANDINS), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(self, command: Sequence[str], log: Path, cwd: Path) -> None:
        """Run one of the environment's commands; its output goes to `log`. Raises CompileError."""
        program = str(self.path / "bin" / command[0])
        with log.open("ab") as output:
            done = subprocess.run(
                [program, *command[1:]],
                cwd=cwd,
                env=self.variables(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode != 0:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise CompileError(f"{command[0]} failed with status {done.returncode}:\n{last}")


def default_environment() -> Environment:
    """In TPUSERVE_COMPILER_DIR, else in the user's cache directory."""
    chosen = os.environ.get("TPUSERVE_COMPILER_DIR")
    if chosen:
        return Environment(Path(chosen))
    return Environment(Path.home() / ".cache" / "tpuserve" / "compiler" / COMPILER_VERSION)


def find_python310() -> Path:
    """A CPython 3.10 that runs. Raises CompileError when there is none."""
    for candidate in _python310_candidates():
        try:
            done = subprocess.run(
                [str(candidate), "-c", "import sys, venv; print(*sys.version_info[:2])"],
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError:
            continue
        if done.returncode == 0 and done.stdout.split() == ["3", "10"]:
            return candidate
    raise CompileError(
        "no Python 3.10 found: install one (package python3.10-venv, pyenv or uv) "
        "or name its path in TPUSERVE_PYTHON310"
    )


def _python310_candidates() -> Iterator[Path]:
    chosen = os.environ.get("TPUSERVE_PYTHON310")
    if chosen:
        yield Path(chosen)
        return
    on_path = shutil.which("python3.10")
    if on_path:
        yield Path(on_path)
    # A pyenv shim on PATH answers only for the version that pyenv has selected.
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(pyenv.glob("versions/3.10.*/bin/python3.10"))
    yield from sorted(Path.home().glob(".local/share/uv/python/cpython-3.10*/bin/python3.10"))


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CompileError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
