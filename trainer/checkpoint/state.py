"""Captures and restores the complete state of a run, as one HDF5 file with a digest.

The state holds: the variables of model and optimizer; the random generators of dropout layers,
which Keras's weight files leave out; the state of Keras callbacks; the random generators of Python
and NumPy; and the position in the training. The order of examples is a function of seed, epoch and
position, so it is not stored.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import keras
import numpy as np

from trainer.checkpoint import identity as run_identity
from trainer.checkpoint.identity import Identity
from trainer.data.dataset import Array
from trainer.engine.train_state import TrainState
from trainer.errors import TrainerError

_METADATA = "metadata"  # JSON, as a data set of bytes: HDF5 attributes are limited to 64 KiB.
_DIGEST = "sha256"
_FORMAT = 3  # Raised when names of groups, attributes or metadata, or the identity, change.

START_ANEW = "Set another --out, or --resume never --overwrite to start from the beginning"


class CheckpointError(TrainerError):
    """A checkpoint is truncated, corrupt, or of another run."""


class CheckpointFormatError(CheckpointError):
    """A checkpoint was written by another version of this program."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run, in memory.

    Attributes:
        metadata: the values that JSON can represent.
        arrays: the arrays, by name.
    """

    metadata: dict[str, Any]
    arrays: dict[str, Array]


def capture(
    model: keras.Model,
    callbacks: Sequence[keras.callbacks.Callback],
    train_state: TrainState,
    *,
    identity: Identity,
    environment: Mapping[str, str],
    seconds: float,
) -> Checkpoint:
    """Copies the state of a run; training may continue while the copy is written.

    Args:
        model: compiled, with a built optimizer.
        callbacks: callbacks whose state is part of the run.
        train_state: position in the training.
        identity: what the result depends on, by `identity.describe`; see `check_identity`.
        environment: device and versions; results are bit-identical only with the same.
        seconds: duration of the run so far, over all attempts.
    """
    arrays = {f"variables/{n}": _value(v) for n, v in enumerate(_variables(model))}
    _, keys, position, has_gauss, cached = np.random.get_state()
    arrays["numpy_keys"] = np.array(keys)
    version, state, gauss = random.getstate()
    arrays["python_state"] = np.array(state, np.uint64)
    callback_states = []
    for number, callback in enumerate(callbacks):
        plain, callback_arrays = _callback_state(callback)
        callback_states.append(plain)
        for name, values in callback_arrays.items():
            arrays |= {f"callbacks/{number}/{name}/{n}": v for n, v in enumerate(values)}
    metadata = {
        "identity": dict(identity),
        "environment": dict(environment),
        "seconds": seconds,
        "train_state": asdict(train_state),
        "callbacks": callback_states,
        "numpy": [int(position), int(has_gauss), float(cached)],
        "python": [version, gauss],
    }
    return Checkpoint(json.loads(json.dumps(metadata)), arrays)


def check_identity(
    checkpoint: Checkpoint,
    identity: Identity,
    again: Callable[[], Sequence[Any]] | None = None,
) -> None:
    """Checks that a checkpoint is one of this run; the number of epochs may differ.

    Args:
        checkpoint: the checkpoint.
        identity: of this run, by `identity.describe`.
        again: as in `identity.differences`.

    Raises:
        CheckpointError: the checkpoint is of another run; the message says what differs.
    """
    saved = checkpoint.metadata["identity"]
    lines = run_identity.differences(saved, identity, again)
    if not lines:
        return
    epochs = ""
    if saved["epochs"] != identity["epochs"]:
        epochs = f"--epochs was {saved['epochs']}, now {identity['epochs']}"
    if epochs and all(line.startswith("optimizer") for line in lines):
        raise CheckpointError(
            f"{epochs}, and the optimizer of this recipe depends on the number of epochs: "
            f"{run_identity.format_differences(lines)}. {START_ANEW}"
        )
    text = run_identity.format_differences([epochs, *lines] if epochs else lines)
    raise CheckpointError(f"it is of another run: {text}. {START_ANEW}")


def position(checkpoint: Checkpoint) -> tuple[int, int]:
    """Returns the position in the training: finished epochs, and steps of the current one."""
    train_state = checkpoint.metadata["train_state"]
    return train_state["epoch"], train_state["step"]


def restore(
    checkpoint: Checkpoint, model: keras.Model, callbacks: Sequence[keras.callbacks.Callback]
) -> TrainState:
    """Loads a checkpoint into model, callbacks and random generators; returns the train state.

    Raises:
        CheckpointError: the checkpoint is of a network of another shape, or of other callbacks.
    """
    metadata, arrays = checkpoint.metadata, checkpoint.arrays
    variables = _variables(model)
    count = sum(name.startswith("variables/") for name in arrays)
    values = [arrays.get(f"variables/{n}") for n in range(count)]
    shapes = [None if value is None else value.shape for value in values]
    if shapes != [tuple(variable.shape) for variable in variables]:
        raise CheckpointError(f"it is of a network of another shape. {START_ANEW}")
    if len(metadata["callbacks"]) != len(callbacks):
        raise CheckpointError(
            f"it has the state of {len(metadata['callbacks'])} callbacks, now there are "
            f"{len(callbacks)}. {START_ANEW}"
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    for number, (callback, plain) in enumerate(zip(callbacks, metadata["callbacks"], strict=True)):
        _load_callback_state(callback, plain, arrays, f"callbacks/{number}")
    position, has_gauss, cached = metadata["numpy"]
    np.random.set_state(("MT19937", arrays["numpy_keys"], position, has_gauss, cached))
    version, gauss = metadata["python"]
    random.setstate((version, tuple(arrays["python_state"].tolist()), gauss))
    return TrainState(**metadata["train_state"])


def write(checkpoint: Checkpoint, file: Path | BinaryIO) -> None:
    """Writes a checkpoint as HDF5, with the SHA-256 of its content."""
    metadata = json.dumps(checkpoint.metadata).encode()
    with h5py.File(file, "w") as opened:
        opened[_METADATA] = np.frombuffer(metadata, np.uint8)
        for name, value in checkpoint.arrays.items():
            opened[f"arrays/{name}"] = value
        opened.attrs["format"] = _FORMAT
        opened.attrs[_DIGEST] = _digest(metadata, checkpoint.arrays)


def read(file: Path | BinaryIO) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        CheckpointError: the file is truncated, corrupt or of another format.
    """
    arrays: dict[str, Array] = {}

    def read_array(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    try:
        with h5py.File(file, "r") as opened:
            version = int(opened.attrs.get("format", 1))
            if version != _FORMAT:
                raise CheckpointFormatError(
                    f"found checkpoint format {version}, expected {_FORMAT}. Resume with the "
                    "version of trainer that wrote it, or start from the beginning with --resume "
                    "never --overwrite"
                )
            metadata = opened[_METADATA][()].tobytes()
            opened["arrays"].visititems(read_array)
            expected = opened.attrs[_DIGEST]
    except CheckpointError:
        raise
    except Exception as error:  # h5py raises errors of many types for a damaged file.
        raise CheckpointError(f"it cannot be read: {error}") from None
    if _digest(metadata, arrays) != expected:
        raise CheckpointError("its content does not match its digest")
    return Checkpoint(json.loads(metadata), arrays)


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]


def _value(variable: keras.Variable) -> Array:
    return np.array(variable.value)  # A copy, since later steps change the variable in place.


def _digest(metadata: bytes, arrays: Mapping[str, Array]) -> str:
    digest = hashlib.sha256(metadata)
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {value.dtype.str} {value.shape}".encode())
        digest.update(value.data)
    return digest.hexdigest()


def _callback_state(
    callback: keras.callbacks.Callback,
) -> tuple[dict[str, Any], dict[str, list[Array]]]:
    """Returns the state of a callback: plain values, and lists of arrays such as best weights."""
    plain: dict[str, Any] = {}
    arrays: dict[str, list[Array]] = {}
    for name, value in vars(callback).items():
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | float | str):
            plain[name] = value
        elif isinstance(value, list) and all(isinstance(item, np.ndarray) for item in value):
            plain[name] = {"arrays": len(value)}
            arrays[name] = value
        elif _is_library_function(getattr(value, "__module__", None)):
            # A comparison function, which Keras chooses once, at the first epoch.
            plain[name] = {"function": [value.__module__, getattr(value, "__qualname__", "")]}
    return plain, arrays


def _load_callback_state(
    callback: keras.callbacks.Callback,
    plain: Mapping[str, Any],
    arrays: Mapping[str, Array],
    prefix: str,
) -> None:
    for name, value in plain.items():
        if isinstance(value, dict) and "arrays" in value:
            value = [arrays[f"{prefix}/{name}/{n}"] for n in range(value["arrays"])]
        elif isinstance(value, dict):
            module, function = value["function"]
            if not _is_library_function(module):
                raise CheckpointError(f"it names {module}.{function}, expected a function of Keras")
            value = getattr(importlib.import_module(module), function, None)
        setattr(callback, name, value)


def _is_library_function(module: str | None) -> bool:
    return module is not None and module.split(".")[0] == "keras" and ".ops." in module
