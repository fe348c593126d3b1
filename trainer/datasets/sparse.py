"""A SciPy sparse matrix of features with its labels, in one `.npz`.

    m = scipy.sparse.csr_array(...)
    np.savez(path, format="csr", shape=m.shape, data=m.data, indices=m.indices, indptr=m.indptr,
             labels=labels)

Source: the keys of scipy.sparse.save_npz, with `labels` beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from trainer.datasets import npz
from trainer.datasets.dataset import Array, Source, check_shape
from trainer.errors import DataError

NAME = "an .npz of a SciPy sparse matrix with an array `labels`"


def recognises(files: Sequence[Path]) -> bool:
    """Tells whether this is one `.npz` with the keys of a sparse matrix."""
    return len(files) == 1 and {"format", "shape", "data"} <= npz.members(files[0])


def read(files: Sequence[Path], *, allow_pickle: bool = False) -> Source:
    """Reads the matrix (N, D) and its labels (N,); the data comes in one piece.

    Raises:
        DataError: the file is damaged, or has no labels.
    """
    (file,) = files
    labels = npz.array(file, "labels")
    for name in npz.members(file):
        dtype = npz.check_header(file, name)
        if name in ("indices", "indptr") and dtype.kind not in "iu":  # SciPy would round them.
            raise DataError(f"{file.name}: array {name!r} is {dtype}, expected integers")
    try:
        matrix = scipy.sparse.load_npz(file)
    except Exception as error:  # A damaged archive raises nearly anything.
        raise DataError(f"{file.name}: damaged sparse matrix: {error}") from None
    return Source(train=(dense(matrix, file.name), labels))


def dense(matrix: Any, name: str) -> Array:
    """Returns a sparse matrix as an array (N, D), of uint8 where its numbers allow it.

    Raises:
        DataError: it is inconsistent, or larger than half the machine's memory.
    """
    try:
        rows = scipy.sparse.csr_array(matrix)
        rows.check_format(full_check=True)
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"{name}: damaged sparse matrix: {error}") from None
    if rows.dtype.kind not in "biuf":
        raise DataError(f"{name}: sparse matrix of {rows.dtype}, expected numbers")
    rows.sum_duplicates()
    counts = rows.data
    small = len(counts) == 0 or (
        counts.min() >= 0 and counts.max() <= 255 and bool((counts == np.floor(counts)).all())
    )
    dtype = np.dtype(np.uint8 if small else np.float32)
    check_shape(name, rows.shape, dtype.itemsize)
    return np.asarray(rows.astype(dtype).toarray())
