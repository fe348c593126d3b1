"""Programs outside Python that some tests need, such as a browser."""

from __future__ import annotations

import os
import shutil

import pytest

# With 1, a test whose program is missing fails; otherwise it is skipped.
REQUIRED = "TRAINER_REQUIRE_PROGRAMS"


def require(program: str) -> str:
    """Returns the path of a program; skips or fails the test that needs it if it is missing."""
    path = shutil.which(program)
    if path is not None:
        return path
    message = f"{program} is not installed (apt-get install {program})"
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{message}, and {REQUIRED} is 1", pytrace=False)
    pytest.skip(message)
