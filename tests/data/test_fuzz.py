"""Tests that valid files with random changes are either read, or refused with DataError.

To run for longer: FUZZ_EXAMPLES=100000 make test ARGS=tests/data/test_fuzz.py
"""

from __future__ import annotations

import contextlib
import gzip
import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.hostile import IDX, IMAGES, LABELS, WORDS, X, Y, members, npy, npz
from trainer.config import DataOptions, ReadOptions
from trainer.data import loader
from trainer.data.statistics import collect
from trainer.errors import DataError

Edits = list[tuple[int, int, bytes]]

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
EDITS = st.lists(
    st.tuples(st.integers(0, 4000), st.integers(0, 9), st.binary(max_size=9)),
    min_size=1,
    max_size=4,
)
MATRIX = scipy.sparse.csr_array(X.reshape(40, 16))
SPARSE = {"format": b"csr", "shape": MATRIX.shape, "data": MATRIX.data, "indices": MATRIX.indices,
          "indptr": MATRIX.indptr, "labels": Y}  # fmt: skip
WHOLE = {"x_train": X, "y_train": Y, "x_test": X[:10], "y_test": Y[:10]}


def edited(content: bytes, edits: Edits) -> bytes:
    """Returns the content with the bytes at some offsets replaced."""
    changed = bytearray(content)
    for at, length, new in edits:
        at %= len(changed) + 1
        changed[at : at + length] = new
    return bytes(changed)


def load(name: str, content: bytes, others: dict[str, bytes] | None = None) -> None:
    """Writes the files to a folder, and reads them in both ways that the program does."""
    with tempfile.TemporaryDirectory() as folder:
        for other, unchanged in (others or {}).items():
            Path(folder, other).write_bytes(unchanged)
        Path(folder, name).write_bytes(content)
        path = folder if others else str(Path(folder, name))
        with contextlib.suppress(DataError):
            collect(path, ReadOptions(allow_pickle=True))
        with contextlib.suppress(DataError):
            data = loader.load(
                DataOptions(data=path, seed=0, validation_split=0.3, allow_pickle=True)
            )
            assert len(data.train) + len(data.test) > 0
            assert data.spec.kind in ("image", "vector", "text")


fuzzed = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@fuzzed
@given(EDITS, st.sampled_from([IMAGES, LABELS]), st.sampled_from(["plain", "within", "zipped"]))
def test_idx_files_are_read_or_refused(edits: Edits, name: str, zipped: str) -> None:
    if zipped == "plain":
        content = edited(IDX[name], edits)
    elif zipped == "within":
        content = gzip.compress(edited(IDX[name], edits))
    else:
        content = edited(gzip.compress(IDX[name]), edits)
    load(name, content, IDX)


@fuzzed
@given(EDITS, st.sampled_from(list(WHOLE)), st.booleans())
def test_npz_archives_are_read_or_refused(edits: Edits, name: str, inside: bool) -> None:
    if inside:
        contents = {n: npy(array) for n, array in WHOLE.items()}
        load("set.npz", members(**(contents | {name: edited(contents[name], edits)})))
    else:
        load("set.npz", edited(npz(**WHOLE), edits))


@fuzzed
@given(EDITS, st.sampled_from(list(SPARSE)))
def test_sparse_matrices_are_read_or_refused(edits: Edits, name: str) -> None:
    contents = {n: npy(np.asarray(array)) for n, array in SPARSE.items()}
    load("set.npz", members(**(contents | {name: edited(contents[name], edits)})))


@fuzzed
@given(EDITS)
def test_text_files_are_read_or_refused(edits: Edits) -> None:
    good = "\n".join(WORDS).encode()
    load("neg.txt", edited(good, edits), {"pos.txt": good})


@fuzzed
@pytest.mark.filterwarnings("ignore")  # NumPy and SciPy warn of invalid arrays.
@given(EDITS, st.integers(0, 5), st.booleans())
def test_pickles_are_read_or_refused(edits: Edits, protocol: int, sparse: bool) -> None:
    rows = X.reshape(40, 16)
    first = scipy.sparse.csr_matrix(rows) if sparse else rows
    load("set.pickle", edited(pickle.dumps([first, Y, first, Y], protocol), edits))
