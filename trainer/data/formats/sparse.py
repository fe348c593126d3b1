"""A SciPy sparse matrix (CSR) of features with its labels, in one `.npz`.

    m = scipy.sparse.csr_array(...)
    np.savez(path, format="csr", shape=m.shape, data=m.data, indices=m.indices, indptr=m.indptr,
             labels=labels)

Source: the keys of scipy.sparse.save_npz, with `labels` beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.data.checks import check_shape
from trainer.data.dataset import Array, RawSplits, ReadRequest
from trainer.data.formats import npz
from trainer.errors import DataError, Location

NAME = "an .npz of a SciPy sparse matrix with an array `labels`"


def recognises(files: Sequence[Path]) -> bool:
    """Tells whether this is one `.npz` with the keys of a sparse matrix."""
    return len(files) == 1 and {"format", "shape", "data"} <= npz.members(files[0])


def read(files: Sequence[Path], request: ReadRequest) -> RawSplits:
    """Reads the matrix (N, D) and its labels (N,); the data comes in one piece.

    Raises:
        DataError: the file is damaged, or has no labels.
    """
    (file,) = files
    kind = npz.array(file, "format")
    if kind.ndim != 0 or kind.item() not in ("csr", b"csr"):
        raise DataError(f"sparse matrix of format {kind}, expected csr", Location(file))
    data, indices, indptr, shape, labels = (
        npz.array(file, name) for name in ("data", "indices", "indptr", "shape", "labels")
    )
    try:
        examples = dense(data, indices, indptr, shape)
    except DataError as error:
        raise error.at(Location(file)) from None
    return RawSplits(train=(examples, labels))


def dense(data: Array, indices: Array, indptr: Array, shape: Array) -> Array:
    """Returns a matrix of compressed sparse rows as an array (N, D), uint8 if numbers allow it.

    SciPy's own conversions are not used: they trust what they are given, and crash.

    Args:
        data: values that are not 0; those of one place are summed.
        indices: the column of each.
        indptr: where each row begins in `data`, and the end of the last.
        shape: N and D.

    Raises:
        DataError: the parts do not fit together, or are larger than half the machine's memory; it
            has no place.
    """
    if not all(part.dtype.kind in "iu" for part in (indices, indptr, shape)):
        raise DataError("damaged sparse matrix: expected indices and shape of integers")
    if data.dtype.kind not in "biuf":
        raise DataError(f"sparse matrix of {data.dtype}, expected numbers")
    if shape.shape != (2,) or shape.min() < 1:
        raise DataError("damaged sparse matrix: expected a shape of two sizes")
    rows, columns = (int(size) for size in shape)
    check_shape(None, (rows, columns), np.dtype(np.float32).itemsize)
    if (
        {data.ndim, indices.ndim, indptr.ndim} != {1}
        or len(data) != len(indices)
        or len(indptr) != rows + 1
        or indptr[0] != 0
        or indptr[-1] != len(data)
        or (indptr[1:] < indptr[:-1]).any()
    ):
        raise DataError("damaged sparse matrix: its parts do not fit together")
    if len(indices) and not (indices.min() >= 0 and indices.max() < columns):
        raise DataError("damaged sparse matrix: columns out of range")
    counts = indptr[1:].astype(np.int64) - indptr[:-1].astype(np.int64)
    starts = np.repeat(np.arange(rows) * columns, counts)
    places, which = np.unique(starts + indices.astype(np.int64), return_inverse=True)
    values = np.bincount(which, weights=data)
    small = len(values) == 0 or (
        values.min() >= 0 and values.max() <= 255 and bool((values == np.floor(values)).all())
    )
    found = np.zeros(rows * columns, np.uint8 if small else np.float32)
    with np.errstate(over="ignore"):  # Infinity is told of later.
        found[places] = values
    return found.reshape(rows, columns)
