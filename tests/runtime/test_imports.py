"""TensorFlow is imported without what is not needed, and nothing is lost by it."""

from __future__ import annotations

import subprocess
import sys

from tests.kills import ROOT


def test_nothing_is_left_behind_but_keras() -> None:
    code = """
import gc, sys
from trainer import imports
with imports.keras():
    assert not gc.isenabled()
assert gc.isenabled() and gc.get_freeze_count() > 100_000
assert "keras" in sys.modules and "matplotlib.pyplot" not in sys.modules
import matplotlib.pyplot  # As a user's module may.
try:
    with imports.gc_paused():
        raise ImportError
except ImportError:
    assert gc.isenabled()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
