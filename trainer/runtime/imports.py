"""Imports TensorFlow and Keras without log lines and without garbage collection."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator

from trainer.runtime import control_groups, temporary
from trainer.runtime.log import suppress_native_logs


@contextlib.contextmanager
def keras() -> Iterator[None]:
    """Imports Keras and TensorFlow; modules that need them are imported in the `with` block."""
    with gc_paused():
        _import_keras()
        yield


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Disables garbage collection while large packages are imported, and hides native log lines.

    Objects of modules are never garbage, but collections take a fifth of the import time. At the
    end all objects are frozen, so that later collections skip them.

    Raises:
        StorageError: there is no folder for temporary files, which TensorFlow's import needs.
    """
    temporary.root()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with suppress_native_logs():
            yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def _import_keras() -> None:
    """Imports Keras and TensorFlow, but not matplotlib.pyplot.

    Keras imports pyplot for its image gallery if it is installed, and works without it.
    """
    pyplot = "matplotlib.pyplot"
    hidden = pyplot not in sys.modules
    if hidden:
        sys.modules[pyplot] = None  # type: ignore[assignment]  # Makes its import fail.
    try:
        import keras  # noqa: F401
    finally:
        if hidden:
            del sys.modules[pyplot]
    _limit_threads()


def _limit_threads() -> None:
    """Sets TensorFlow's threads to the quota of the control group, if there is one.

    TensorFlow starts a thread per core of the machine. The kernel stops all threads of a group that
    has used its quota, so more threads than the quota make each step slower.
    """
    cores = control_groups.cores()
    if cores == len(os.sched_getaffinity(0)) or "TF_NUM_INTRAOP_THREADS" in os.environ:
        return
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # TensorFlow has started its threads already.
        tf.config.threading.set_inter_op_parallelism_threads(cores)
        tf.config.threading.set_intra_op_parallelism_threads(cores)
