"""The compiler's environment for tests, or the reason why it is not there."""

from __future__ import annotations

import os

import pytest

from compiler.environment import Environment, default_environment, find_python310
from compiler.errors import CompileError


def prepared() -> Environment:
    """Made on first use: 300 MB to download. Skips the test without Python 3.10; fails under CI."""
    try:
        find_python310()
    except CompileError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    environment = default_environment()
    environment.prepare()
    return environment
