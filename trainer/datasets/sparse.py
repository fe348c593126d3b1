"""A SciPy sparse matrix of features with its labels, in one `.npz`.

    m = scipy.sparse.csr_array(...)
    np.savez(path, format="csr", shape=m.shape, data=m.data, indices=m.indices, indptr=m.indptr,
             labels=labels)

Source: the keys of scipy.sparse.save_npz, with `labels` beside them.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from trainer.datasets import npz
from trainer.datasets.dataset import Array, Source
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
    try:
        matrix = scipy.sparse.load_npz(file)
    except (
        ValueError, KeyError, TypeError, IndexError, NotImplementedError, OSError, EOFError,
        zipfile.BadZipFile, zlib.error, MemoryError,
    ) as error:  # fmt: skip
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
    needed = rows.shape[0] * rows.shape[1] * dtype.itemsize
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    if needed > limit:
        raise DataError(
            f"{name}: {rows.shape[0]} x {rows.shape[1]} takes {needed / 1e9:.1f} GB when dense, "
            f"expected at most {limit / 1e9:.1f} GB, half of this machine's memory"
        )
    return np.asarray(rows.astype(dtype).toarray())
