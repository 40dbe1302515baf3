"""The compiler's own Python 3.10 environment: made once, checked by hash, without torch.

The vendor's compiler is built for CPython 3.10. Modules that it imports at start and that
converting a
language model does not need (torch, cv2, …) are small stand-ins of our own in `standins/`; the
command `parallel`, which it calls, is in `standins/bin`. Our own programs that run in there find
this package by `standins/compiler`.
"""

import hashlib
import os
import platform
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.errors import CompileError
from compiler.progress import Progress

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"
STANDINS = HERE / "standins"
COMPILER_VERSION = "1.30.2"

_EVENTS_VARIABLE = "TPUSERVE_COMPILE_EVENTS"
_POLL_S = 0.2

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

    def run(
        self, command: Sequence[str], log: Path, cwd: Path, *, progress: Progress | None = None
    ) -> None:
        """Run one of the environment's commands; its output goes to `log`. Raises CompileError.

        `progress` is told of the nets that the command compiles.
        """
        program = str(self.path / "bin" / command[0])
        variables = self.variables(os.environ)
        if progress:
            variables[_EVENTS_VARIABLE] = str(progress.events)
        with log.open("ab") as output:
            # A session of its own, so that nothing of it is left when this process is interrupted.
            process = subprocess.Popen(
                [program, *command[1:]],
                cwd=cwd,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _wait(process, progress)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        if process.returncode != 0:
            if progress and progress.failed:
                raise CompileError(progress.failed[0].describe())
            last = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise CompileError(f"{command[0]} failed with status {process.returncode}:\n{last}")


def _wait(process: "subprocess.Popen[bytes]", progress: Progress | None) -> None:
    if progress is None:
        process.wait()
        return
    try:
        while True:
            try:
                process.wait(_POLL_S)
                return
            except subprocess.TimeoutExpired:
                progress.poll()
    finally:
        progress.poll()
        progress.close()


def default_environment() -> Environment:
    """In TPUSERVE_COMPILER_DIR, else in the user's cache directory."""
    chosen = os.environ.get("TPUSERVE_COMPILER_DIR")
    if chosen:
        return Environment(Path(chosen))
    return Environment(Path.home() / ".cache" / "tpuserve" / "compiler" / COMPILER_VERSION)


def find_python310() -> Path:
    """A CPython 3.10 that runs. Raises CompileError when there is none."""
    looked: list[str] = []
    for place, candidates in _python310_places():
        looked.append(place)
        for candidate in candidates:
            if _is_python310(candidate):
                return candidate
    raise CompileError(
        "the vendor's compiler needs Python 3.10 and none was found; looked at "
        f"{', '.join(looked)}. Install one (Debian's python3.10-venv, `uv python install 3.10` or "
        "pyenv), or set TPUSERVE_PYTHON310 to the path of its interpreter"
    )


def _is_python310(candidate: Path) -> bool:
    try:
        done = subprocess.run(
            [str(candidate), "-c", "import sys, venv; print(*sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0 and done.stdout.split() == ["3", "10"]


def _python310_places() -> Iterator[tuple[str, list[Path]]]:
    """Where one may be, in words, and what is there."""
    chosen = os.environ.get("TPUSERVE_PYTHON310")
    if chosen:
        yield f"TPUSERVE_PYTHON310 ({chosen})", [Path(chosen)]
        return
    on_path = shutil.which("python3.10")
    yield "python3.10 on PATH", [Path(on_path)] if on_path else []
    # A pyenv shim on PATH answers only for the version that pyenv has selected.
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    yield f"{pyenv}/3.10.*", sorted(pyenv.glob("3.10.*/bin/python3.10"))
    uv = Path.home() / ".local" / "share" / "uv" / "python"
    yield f"{uv}/cpython-3.10*", sorted(uv.glob("cpython-3.10*/bin/python3.10"))


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CompileError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
