"""Snapshots: all of a run's state, or an error; never a part of it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from trainer.checkpoint import state
from trainer.checkpoint.state import Progress, SnapshotError


def model(units: int = 3) -> keras.Model:
    layers = [keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(units)]
    built = keras.Sequential(layers)
    built.compile("adam", "sparse_categorical_crossentropy")
    built.optimizer.build(built.trainable_variables)
    return built


def variables(of: keras.Model) -> list[np.ndarray]:
    return [np.array(v) for v in (*of.variables, *of.optimizer.variables)]


def snapshot_of(used: keras.Model, callbacks: Any, progress: Progress) -> state.Snapshot:
    return state.capture(
        used, callbacks, progress, identity="run", environment={"device": "CPU"}, seconds=1.5
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A snapshot of a model that has been used."""
    used = model()
    used(np.ones((2, 4)), training=True)  # Moves the generator of the dropout.
    state.write(snapshot_of(used, [], Progress(epoch=2, step=5)), tmp_path / "x.h5")
    return tmp_path / "x.h5"


def test_everything_comes_back(tmp_path: Path) -> None:
    first, second = model(), model()
    first(np.ones((2, 4)), training=True)
    progress = Progress(epoch=2, step=5, loss_sum=0.1 + 0.2, history=[{"loss": 1 / 3}])
    stop = keras.callbacks.EarlyStopping(monitor="loss")
    stop.best, stop.wait, stop.best_weights = 0.25, 3, first.get_weights()
    state.write(snapshot_of(first, [stop], progress), tmp_path / "x.h5")
    expected = random.random(), np.random.random()

    other: Any = keras.callbacks.EarlyStopping(monitor="loss")
    restored = state.restore(state.read(tmp_path / "x.h5"), second, [other], "run")
    assert restored == progress
    assert (other.best, other.wait) == (0.25, 3)
    assert all((a == b).all() for a, b in zip(other.best_weights, stop.best_weights, strict=True))
    assert (random.random(), np.random.random()) == expected
    assert all((a == b).all() for a, b in zip(variables(first), variables(second), strict=True))


def test_a_torn_file_is_noticed_wherever_it_was_torn(file: Path) -> None:
    content = file.read_bytes()
    for length in range(0, len(content), max(1, len(content) // 50)):
        file.write_bytes(content[:length])
        with pytest.raises(SnapshotError, match="it cannot be read"):
            state.read(file)


def test_a_changed_byte_changes_nothing_or_is_noticed(file: Path) -> None:
    content = file.read_bytes()
    whole = state.read(file)
    noticed = 0
    for offset in range(0, len(content), max(1, len(content) // 200)):
        changed = bytearray(content)
        changed[offset] ^= 0x55
        file.write_bytes(changed)
        try:
            read = state.read(file)
        except SnapshotError:
            noticed += 1
            continue
        assert read.facts == whole.facts
        assert all((read.arrays[name] == whole.arrays[name]).all() for name in whole.arrays)
    assert noticed > 0


def test_a_snapshot_of_another_run_is_refused(file: Path) -> None:
    snapshot = state.read(file)
    with pytest.raises(SnapshotError, match="of other settings, or the data has changed"):
        state.restore(snapshot, model(), [], "another")
    with pytest.raises(SnapshotError, match="of a network of another shape"):
        state.restore(snapshot, model(units=4), [], "run")


def test_a_snapshot_cannot_name_any_function(file: Path) -> None:
    snapshot = state.read(file)
    snapshot.facts["callbacks"] = [{"monitor_op": {"function": ["os", "system"]}}]
    with pytest.raises(SnapshotError, match=r"os\.system, which is no function of Keras"):
        state.restore(snapshot, model(), [keras.callbacks.EarlyStopping()], "run")
