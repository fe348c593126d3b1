"""NumPy's `.npz` with the arrays x_train, y_train and, if there is a test part, x_test, y_test.

Source: the layout of Keras's own `mnist.npz` (keras.datasets.mnist).
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.datasets.dataset import Array, Source
from trainer.errors import DataError

NAME = "an .npz with x_train, y_train, x_test, y_test"


def members(file: Path) -> set[str]:
    """Returns the names of the arrays in an `.npz`; none if it is not one."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return set()
    return {name.removesuffix(".npy") for name in names if name.endswith(".npy")}


def array(file: Path, name: str) -> Array:
    """Reads one array of an `.npz`.

    Raises:
        DataError: there is no such array, it is damaged, or it holds Python objects.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return np.asarray(arrays[name])
    except KeyError:
        raise DataError(
            f"{file.name}: no array {name!r}, found {', '.join(sorted(members(file)))}"
        ) from None
    except ValueError as error:
        if "pickle" in str(error):
            raise DataError(
                f"{file.name}: array {name!r} holds Python objects, which can run code when read; "
                "expected numbers or strings (save it with a numeric or str dtype)"
            ) from None
        raise DataError(f"{file.name}: array {name!r} is damaged: {error}") from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        raise DataError(f"{file.name}: array {name!r} is damaged: {error}") from None


def recognises(files: Sequence[Path]) -> bool:
    """Tells whether this is one zip file of arrays, or named as one."""
    return len(files) == 1 and (
        "x_train" in members(files[0])
        or (files[0].suffix == ".npz" and "indptr" not in members(files[0]))
    )


def read(files: Sequence[Path], *, allow_pickle: bool = False) -> Source:
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
