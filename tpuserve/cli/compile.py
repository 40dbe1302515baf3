"""`tpuserve compile HF_DIR -o MODEL_DIR …`: hands its arguments to the compiler's own program.

The compiler is a package of its own that nothing imports: it is run, as `python -m compiler` does,
but without the current directory on the module path.
"""

from __future__ import annotations

import argparse
import importlib.util
import runpy
import sys
from pathlib import Path

from tpuserve.cli.errors import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # Without prefix characters every argument is a positional one, options and --help included.
    parser.prefix_chars = ""
    parser.add_argument("arguments", nargs="*")


def run(args: argparse.Namespace) -> int:
    package = importlib.util.find_spec("compiler")
    if package is None or package.origin is None:
        raise CommandError("the compiler is not part of this installation: install the whole wheel")
    saved = sys.argv
    sys.argv = ["tpuserve compile", *args.arguments]
    try:
        # Ends with SystemExit, as programs do.
        runpy.run_path(str(Path(package.origin).with_name("__main__.py")), run_name="__main__")
    finally:
        sys.argv = saved
    return 0
