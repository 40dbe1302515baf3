"""This project's `compiler` package, for programs that run inside the compiler's environment.

Their module path must not hold the directory that the package is installed in: the packages
beside it belong to another version of Python.
"""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2])]
