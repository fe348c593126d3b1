"""NumPy's `.npz` with the arrays x_train, y_train and, if there is a test part, x_test, y_test.

Source: the layout of Keras's own `mnist.npz` (keras.datasets.mnist).
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from trainer.datasets.checks import check_shape
from trainer.datasets.dataset import Array, Reading, Source
from trainer.errors import DataError, Place

NAME = "an .npz with x_train, y_train, x_test, y_test"

_MOST_HEADER_BYTES = 20_000  # NumPy itself takes 10,000 at most.


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


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
        raise DataError(f"damaged: {error}", _place(file, name)) from None


def check_header(file: Path, name: str) -> np.dtype[Any]:
    """Checks what the header of an array promises, before the array is read.

    Returns:
        The type of its values.

    Raises:
        DataError: there is no such array, it is too large, or it holds Python objects.
    """
    if name not in members(file):
        found = ", ".join(sorted(members(file)))
        raise DataError(f"no array {name!r}, found {found}", Place(file))
    try:
        with zipfile.ZipFile(file) as archive, archive.open(f"{name}.npy") as content:
            # NumPy would first read as much header as the file says it has, gigabytes of zeros.
            shape, _, dtype = _header(content.read(_MOST_HEADER_BYTES))
    except Exception as error:  # A damaged archive raises nearly anything.
        raise DataError(f"damaged: {error}", _place(file, name)) from None
    if dtype.hasobject:
        raise DataError(
            "holds Python objects, which can run code when read; expected numbers or strings (save "
            "it with a numeric or str dtype)",
            _place(file, name),
        )
    check_shape(_place(file, name), shape, dtype.itemsize)
    return dtype


def npy_header(content: _Readable, place: Place) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Reads the header of an `.npy`, and returns shape and type of the array that follows.

    Args:
        content: of the file, from its start.
        place: of the file.

    Raises:
        DataError: it is no such header, or one of Python objects.
    """
    start = content.read(10)
    size = int.from_bytes(start[8:], "little")  # So far only of version 1, which arrays have.
    try:
        shape, columns_first, dtype = _header(start + content.read(size))
    except Exception as error:  # A damaged header raises nearly anything.
        raise DataError(f"no .npy, or a damaged one: {error}", place) from None
    if dtype.hasobject or (columns_first and len(shape) > 1):
        found = "of Python objects" if dtype.hasobject else "in Fortran's order"
        raise DataError(f"an array {found}, expected numbers in C order", place)
    return shape, dtype


def _place(file: Path, name: str) -> Place:
    return Place(file, f"array {name!r}")


def _header(start: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Takes the header of an array apart: shape, whether it is in Fortran's order, type."""
    header = io.BytesIO(start)
    version = np.lib.format.read_magic(header)
    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    shape, columns_first, dtype = read(header)
    return shape, columns_first, dtype


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
        raise DataError("damaged or truncated, expected a zip file of arrays", Place(file))
    if not options.needs_training and not {"x_train", "y_train"} & members(file):
        return Source(train=(array(file, "x_test"), array(file, "y_test")))
    train = (array(file, "x_train"), array(file, "y_train"))
    if not {"x_test", "y_test"} & members(file):
        return Source(train=train)
    return Source(train=train, test=(array(file, "x_test"), array(file, "y_test")))
