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

from trainer.data.arrays import array_files
from trainer.data.checks import check_shape
from trainer.data.dataset import Array, RawSplits, ReadRequest
from trainer.data.formats import npz
from trainer.data.listing import Candidate
from trainer.errors import DataError, Location

ONE_FILE = True
NAME = "an .npz of a SciPy sparse matrix with an array `labels`"


def recognises(files: Sequence[Path]) -> bool:
    """Returns whether this is one `.npz` with the keys of a sparse matrix."""
    return len(files) == 1 and {"format", "shape", "data"} <= npz.array_names(files[0])


def read(candidate: Candidate, request: ReadRequest) -> RawSplits:
    """Reads the matrix (N, D) and its labels (N,) as unsplit data.

    Raises:
        DataError: the file is damaged, or has no labels.
    """
    (file,) = candidate.files
    examples = read_examples(file)
    try:
        return array_files.raw_splits({"train": (examples, npz.read_array(file, "labels"))})
    except DataError as error:
        raise error.at(Location(file)) from None


def read_examples(file: Path) -> Array:
    """Returns the matrix in a file as a dense array (N, D).

    Raises:
        DataError: the file is damaged.
    """
    kind = npz.read_array(file, "format")
    if kind.ndim != 0 or kind.item() not in ("csr", b"csr"):
        raise DataError(f"sparse matrix of format {kind}, expected csr", Location(file))
    data, indices, indptr, shape = (
        npz.read_array(file, name) for name in ("data", "indices", "indptr", "shape")
    )
    try:
        return to_dense(data, indices, indptr, shape)
    except DataError as error:
        raise error.at(Location(file)) from None


def to_dense(data: Array, indices: Array, indptr: Array, shape: Array) -> Array:
    """Returns a CSR matrix as a dense array (N, D), uint8 if the values allow it, else float32.

    Does not use SciPy's own conversions: they do not check their input, and crash on bad input.

    Args:
        data: nonzero values; values of the same element are added.
        indices: column of each value.
        indptr: start of each row in `data`, and the end of the last row.
        shape: N and D.

    Raises:
        DataError: the arrays do not match, or the result is larger than half the machine's memory;
            without a location.
    """
    if not all(array.dtype.kind in "iu" for array in (indices, indptr, shape)):
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
        raise DataError("damaged sparse matrix: its arrays do not match")
    if len(indices) and not (indices.min() >= 0 and indices.max() < columns):
        raise DataError("damaged sparse matrix: columns out of range")
    counts = indptr[1:].astype(np.int64) - indptr[:-1].astype(np.int64)
    row_offsets = np.repeat(np.arange(rows) * columns, counts)
    elements, element_of = np.unique(row_offsets + indices.astype(np.int64), return_inverse=True)
    values = np.bincount(element_of, weights=data)
    fits_uint8 = len(values) == 0 or (
        values.min() >= 0 and values.max() <= 255 and bool((values == np.floor(values)).all())
    )
    dense = np.zeros(rows * columns, np.uint8 if fits_uint8 else np.float32)
    with np.errstate(over="ignore"):  # `checks.check_split` reports infinity.
        dense[elements] = values
    return dense.reshape(rows, columns)
