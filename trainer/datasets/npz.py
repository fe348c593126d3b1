"""NumPy's `.npz` with the arrays x_train, y_train and, if there is a test part, x_test, y_test.

Source: the layout of Keras's own `mnist.npz` (keras.datasets.mnist).
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.datasets.dataset import Array, Reading, Source, check_shape
from trainer.errors import DataError

NAME = "an .npz with x_train, y_train, x_test, y_test"

_MOST_HEADER_BYTES = 20_000  # NumPy itself takes 10,000 at most.


def members(file: Path) -> set[str]:
    """Returns the names of the arrays in an `.npz`; none if it is not one."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except Exception:  # A damaged archive raises nearly anything.
        return set()
    return {name.removesuffix(".npy") for name in names if name.endswith(".npy")}


def array(file: Path, name: str) -> Array:
    """Reads one array of an `.npz`.

    Raises:
        DataError: there is no such array, it is damaged, or it holds Python objects.
    """
    check_header(file, name)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return np.asarray(arrays[name])
    except Exception as error:  # A damaged archive raises nearly anything.
        raise DataError(f"{file.name}: array {name!r} is damaged: {error}") from None


def check_header(file: Path, name: str) -> np.dtype[Any]:
    """Checks what the header of an array promises, before the array is read.

    Returns:
        The type of its values.

    Raises:
        DataError: there is no such array, it is too large, or it holds Python objects.
    """
    if name not in members(file):
        raise DataError(f"{file.name}: no array {name!r}, found {', '.join(sorted(members(file)))}")
    try:
        with zipfile.ZipFile(file) as archive, archive.open(f"{name}.npy") as content:
            # NumPy would first read as much header as the file says it has, gigabytes of zeros.
            start = content.read(_MOST_HEADER_BYTES)
        header = io.BytesIO(start)
        version = np.lib.format.read_magic(header)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(header)
    except Exception as error:  # A damaged archive raises nearly anything.
        raise DataError(f"{file.name}: array {name!r} is damaged: {error}") from None
    if dtype.hasobject:
        raise DataError(
            f"{file.name}: array {name!r} holds Python objects, which can run code when read; "
            "expected numbers or strings (save it with a numeric or str dtype)"
        )
    check_shape(f"{file.name}: array {name!r}", shape, dtype.itemsize)
    return dtype


def recognises(files: Sequence[Path]) -> bool:
    """Tells whether this is one zip file of arrays, or named as one."""
    return len(files) == 1 and (
        "x_train" in members(files[0])
        or (files[0].suffix == ".npz" and "indptr" not in members(files[0]))
    )


def read(files: Sequence[Path], options: Reading) -> Source:
    """Reads the arrays of both parts.

    Raises:
        DataError: the file is damaged, or an array is missing or holds objects.
    """
    (file,) = files
    if not zipfile.is_zipfile(file):
        raise DataError(f"{file.name}: damaged or truncated, expected a zip file of arrays")
    train = (array(file, "x_train"), array(file, "y_train"))
    if not {"x_test", "y_test"} & members(file):
        return Source(train=train)
    return Source(train=train, test=(array(file, "x_test"), array(file, "y_test")))
