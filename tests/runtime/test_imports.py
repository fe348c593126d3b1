"""Tests of how Keras and TensorFlow are imported."""

from __future__ import annotations

import subprocess
import sys

from tests.kills import ROOT


def test_importing_keras_restores_garbage_collection_and_leaves_pyplot_importable() -> None:
    code = """
import gc, sys
from trainer.runtime import imports
with imports.keras():
    assert not gc.isenabled()
assert gc.isenabled() and gc.get_freeze_count() > 100_000
assert "keras" in sys.modules and "matplotlib.pyplot" not in sys.modules
import matplotlib.pyplot  # A user's module may import it.
try:
    with imports.gc_paused():
        raise ImportError
except ImportError:
    assert gc.isenabled()
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
