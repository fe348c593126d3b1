"""Checkpoints: all of a run's state, or an error; never a part of it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from trainer.checkpoint import state
from trainer.checkpoint.state import CheckpointError
from trainer.engine.train_state import TrainState


def model(units: int = 3) -> keras.Model:
    layers = [keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(units)]
    built = keras.Sequential(layers)
    built.compile("adam", "sparse_categorical_crossentropy")
    built.optimizer.build(built.trainable_variables)
    return built


def variables(of: keras.Model) -> list[np.ndarray]:
    return [np.array(v) for v in (*of.variables, *of.optimizer.variables)]


def checkpoint_of(used: keras.Model, callbacks: Any, state: TrainState) -> state.Checkpoint:
    return state.capture(
        used, callbacks, state, identity="run", environment={"device": "CPU"}, seconds=1.5
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A checkpoint of a model that has been used."""
    used = model()
    used(np.ones((2, 4)), training=True)  # Moves the generator of the dropout.
    state.write(checkpoint_of(used, [], TrainState(epoch=2, step=5)), tmp_path / "x.h5")
    return tmp_path / "x.h5"


def test_everything_comes_back(tmp_path: Path) -> None:
    first, second = model(), model()
    first(np.ones((2, 4)), training=True)
    state = TrainState(epoch=2, step=5, loss_sum=0.1 + 0.2, history=[{"loss": 1 / 3}])
    stop = keras.callbacks.EarlyStopping(monitor="loss")
    stop.best, stop.wait, stop.best_weights = 0.25, 3, first.get_weights()
    state.write(checkpoint_of(first, [stop], state), tmp_path / "x.h5")
    expected = random.random(), np.random.random()

    other: Any = keras.callbacks.EarlyStopping(monitor="loss")
    restored = state.restore(state.read(tmp_path / "x.h5"), second, [other], "run")
    assert restored == state
    assert (other.best, other.wait) == (0.25, 3)
    assert all((a == b).all() for a, b in zip(other.best_weights, stop.best_weights, strict=True))
    assert (random.random(), np.random.random()) == expected
    assert all((a == b).all() for a, b in zip(variables(first), variables(second), strict=True))


def test_a_torn_file_is_noticed_wherever_it_was_torn(file: Path) -> None:
    content = file.read_bytes()
    for length in range(0, len(content), max(1, len(content) // 50)):
        file.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="it cannot be read"):
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
        except CheckpointError:
            noticed += 1
            continue
        assert read.metadata == whole.metadata
        assert all((read.arrays[name] == whole.arrays[name]).all() for name in whole.arrays)
    assert noticed > 0


def test_a_checkpoint_of_another_run_is_refused(file: Path) -> None:
    checkpoint = state.read(file)
    with pytest.raises(CheckpointError, match="of other settings, or the data has changed"):
        state.restore(checkpoint, model(), [], "another")
    with pytest.raises(CheckpointError, match="of a network of another shape"):
        state.restore(checkpoint, model(units=4), [], "run")


def test_a_checkpoint_cannot_name_any_function(file: Path) -> None:
    checkpoint = state.read(file)
    checkpoint.metadata["callbacks"] = [{"monitor_op": {"function": ["os", "system"]}}]
    with pytest.raises(CheckpointError, match=r"os\.system, which is no function of Keras"):
        state.restore(checkpoint, model(), [keras.callbacks.EarlyStopping()], "run")
