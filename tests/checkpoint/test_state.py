"""Tests of the checkpoint state: a checkpoint restores a run completely or raises an error."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from trainer.checkpoint import state
from trainer.checkpoint.state import Checkpoint, CheckpointError
from trainer.engine.train_state import TrainState

IDENTITY: dict[str, Any] = {
    "versions": {"python": "3.11", "keras": "3"},
    "epochs": 2,
    "settings": {"batch_size": 8},
    "data": {"fingerprint": "a"},
    "weights": None,
    "input": "float32 [4]",
    "layers": [],
    "optimizer": {"class": "Adam"},
    "loss": {},
    "augmentation": None,
    "callbacks": [],
}


def model(units: int = 3) -> keras.Model:
    layers = [keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(units)]
    network = keras.Sequential(layers)
    network.compile("adam", "sparse_categorical_crossentropy")
    network.optimizer.build(network.trainable_variables)
    return network


def variables(network: keras.Model) -> list[np.ndarray]:
    return [np.array(v) for v in (*network.variables, *network.optimizer.variables)]


def capture(network: keras.Model, callbacks: Any, train_state: TrainState) -> Checkpoint:
    return state.capture(
        network,
        callbacks,
        train_state,
        identity=IDENTITY,
        environment={"device": "CPU"},
        seconds=1.5,
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A checkpoint file of a model whose dropout generator has advanced."""
    network = model()
    network(np.ones((2, 4)), training=True)
    state.write(capture(network, [], TrainState(epoch=2, step=5)), tmp_path / "x.h5")
    return tmp_path / "x.h5"


def test_the_complete_state_is_restored(tmp_path: Path) -> None:
    first, second = model(), model()
    first(np.ones((2, 4)), training=True)
    train_state = TrainState(epoch=2, step=5, loss_sum=0.1 + 0.2, history=[{"loss": 1 / 3}])
    stop = keras.callbacks.EarlyStopping(monitor="loss")
    stop.best, stop.wait, stop.best_weights = 0.25, 3, first.get_weights()
    state.write(capture(first, [stop], train_state), tmp_path / "x.h5")
    expected = random.random(), np.random.random()

    other: Any = keras.callbacks.EarlyStopping(monitor="loss")
    restored = state.restore(state.read(tmp_path / "x.h5"), second, [other])
    assert restored == train_state
    assert (other.best, other.wait) == (0.25, 3)
    assert all((a == b).all() for a, b in zip(other.best_weights, stop.best_weights, strict=True))
    assert (random.random(), np.random.random()) == expected
    assert all((a == b).all() for a, b in zip(variables(first), variables(second), strict=True))


def test_a_file_truncated_at_any_length_is_detected(file: Path) -> None:
    content = file.read_bytes()
    for length in range(0, len(content), max(1, len(content) // 50)):
        file.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="it cannot be read"):
            state.read(file)


def test_a_changed_byte_is_detected_or_has_no_effect(file: Path) -> None:
    content = file.read_bytes()
    original = state.read(file)
    detected = 0
    for offset in range(0, len(content), max(1, len(content) // 200)):
        changed = bytearray(content)
        changed[offset] ^= 0x55
        file.write_bytes(changed)
        try:
            read = state.read(file)
        except CheckpointError:
            detected += 1
            continue
        assert read.metadata == original.metadata
        assert all((read.arrays[name] == original.arrays[name]).all() for name in original.arrays)
    assert detected > 0


def test_a_checkpoint_of_another_format_is_refused(file: Path) -> None:
    with h5py.File(file, "r+") as opened:
        opened.attrs["format"] = 1
    with pytest.raises(
        CheckpointError, match="found checkpoint format 1, expected 3. Resume with the"
    ):
        state.read(file)


def test_a_checkpoint_of_another_run_is_refused(file: Path) -> None:
    checkpoint = state.read(file)
    state.check_identity(checkpoint, IDENTITY | {"epochs": 3})
    other: dict[str, Any] = {"data": {"fingerprint": "b", "classes": [], "examples": {}}}
    other["data"] |= {"shape": [4], "dtype": "float32"}
    with pytest.raises(CheckpointError, match="it is of another run: the data is other data"):
        state.check_identity(checkpoint, IDENTITY | other)


def test_a_checkpoint_of_another_network_is_refused(file: Path) -> None:
    checkpoint = state.read(file)
    with pytest.raises(CheckpointError, match="of a network of another shape"):
        state.restore(checkpoint, model(units=4), [])
    with pytest.raises(CheckpointError, match="the state of 0 callbacks, now there are 1"):
        state.restore(checkpoint, model(), [keras.callbacks.EarlyStopping()])


def test_variables_that_only_the_checkpoint_has_are_noticed(file: Path) -> None:
    """SGD has fewer variables than Adam, and the first ones have the same shapes."""
    other = model()
    other.compile("sgd", "sparse_categorical_crossentropy")
    other.optimizer.build(other.trainable_variables)
    with pytest.raises(CheckpointError, match="of a network of another shape"):
        state.restore(state.read(file), other, [])


def test_more_epochs_are_refused_if_the_optimizer_depends_on_them(file: Path) -> None:
    optimizer = {"optimizer": {"class": "Adam", "learning_rate": {"class": "CosineDecay"}}}
    message = "--epochs was 2, now 3, and the optimizer of this recipe depends on the number of"
    with pytest.raises(CheckpointError, match=f"^{message} epochs: optimizer: learning_rate was"):
        state.check_identity(state.read(file), IDENTITY | optimizer | {"epochs": 3})
    with pytest.raises(CheckpointError, match="^it is of another run: optimizer: learning_rate"):
        state.check_identity(state.read(file), IDENTITY | optimizer)


def test_a_checkpoint_can_name_functions_of_keras_only(file: Path) -> None:
    checkpoint = state.read(file)
    checkpoint.metadata["callbacks"] = [{"monitor_op": {"function": ["os", "system"]}}]
    with pytest.raises(CheckpointError, match=r"os\.system, expected a function of Keras"):
        state.restore(checkpoint, model(), [keras.callbacks.EarlyStopping()])
