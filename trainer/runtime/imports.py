"""How TensorFlow, and what needs it, is imported: in silence, and without a search for garbage."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

from trainer.runtime.log import suppress_native_logs


@contextlib.contextmanager
def keras() -> Iterator[None]:
    """Imports Keras, and TensorFlow with it; what needs them is imported within."""
    with gc_paused():
        _import_keras()
        yield


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Lets heavy packages be imported within, if any are.

    Python looks for garbage whenever it has made many objects. What a module makes stays, so that
    is a fifth of the time for nothing; and it need not be looked at ever after.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        with suppress_native_logs():
            yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


def _import_keras() -> None:
    """Imports Keras, and TensorFlow with it, without matplotlib's windows.

    Keras wants them for a gallery of images, if they are there, and does without if they are not.
    """
    pyplot = "matplotlib.pyplot"
    hidden = pyplot not in sys.modules
    if hidden:
        sys.modules[pyplot] = None  # type: ignore[assignment]  # So that its import fails.
    try:
        import keras  # noqa: F401
    finally:
        if hidden:
            del sys.modules[pyplot]
