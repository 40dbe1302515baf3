"""Programs that some tests drive and that pip cannot install."""

from __future__ import annotations

import os
import shutil

import pytest


def require(program: str, *, package: str) -> str:
    """The program's path. Without it the calling test is skipped, on CI it fails.

    `package` says where the program comes from, for the reason that is shown.
    """
    found = shutil.which(program)
    if found is not None:
        return found
    reason = f"{program} is not on PATH; it comes from {package}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
