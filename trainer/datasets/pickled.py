"""The seed's pickle `[x_train, y_train, x_test, y_test]` of SciPy CSR and NumPy arrays.

Unpickling runs whatever the file says, so a pickle is refused, and with `--allow-pickle` read by an
unpickler that admits only what such arrays are made of.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from trainer import memory
from trainer.datasets.dataset import Array, Source
from trainer.datasets.sparse import dense
from trainer.errors import DataError

NAME = "a pickle of [x_train, y_train, x_test, y_test] (with --allow-pickle)"

_SUFFIXES = (".pickle", ".pkl")
_INSTEAD = "np.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)"


def recognises(files: Sequence[Path]) -> bool:
    """Tells whether this is one pickle, by its first bytes (protocols 0 to 5) or its name."""
    if len(files) != 1:
        return False
    with files[0].open("rb") as content:
        head = content.read(4)
    return (
        files[0].suffix in _SUFFIXES
        or (head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"))
        or head[:3] == b"(lp"
        or head[:2] in (b"]q", b"](")
    )


def read(files: Sequence[Path], *, allow_pickle: bool = False) -> Source:
    """Reads the four parts; sparse ones become dense.

    Raises:
        DataError: pickles are not allowed, or this one holds anything but such arrays.
    """
    (file,) = files
    if not allow_pickle:
        raise DataError(
            f"{file.name}: a pickle can run any code when it is read, so it is refused. "
            f"Expected an .npz: {_INSTEAD}. If you trust where it comes from, give --allow-pickle."
        )
    memory.check_data(2 * file.stat().st_size, file.name)
    try:
        parts = _ArrayUnpickler(io.BytesIO(file.read_bytes()), encoding="latin1").load()
    except DataError as error:
        raise DataError(f"{file.name}: {error}") from None
    except Exception as error:  # A damaged pickle raises nearly anything.
        raise DataError(f"{file.name}: damaged pickle: {type(error).__name__}: {error}") from None
    if not isinstance(parts, list | tuple) or len(parts) != 4:
        raise DataError(
            f"{file.name}: found {type(parts).__name__}, expected "
            "[x_train, y_train, x_test, y_test]"
        )
    x_train, y_train, x_test, y_test = (_array(part, file.name) for part in parts)
    return Source(train=(x_train, y_train), test=(x_test, y_test))


# Python's own, not the one in C, which four bytes can make reserve gigabytes for its memo.
class _ArrayUnpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _ADMITTED.get((module.replace("numpy.core.", "numpy._core."), name))
        if found is None:
            raise DataError(
                f"found {module}.{name} in a pickle, expected NumPy and SciPy arrays only"
            )
        return found


def _encode_latin1(text: str, encoding: str) -> bytes:
    # How protocols 0 to 2 write bytes; the real _codecs.encode would take any codec.
    if encoding != "latin1":
        raise DataError(f"found the codec {encoding} in a pickle, expected latin1")
    return text.encode("latin1")


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "scalar"): np.float64(0).__reduce__()[0],
    ("numpy._core.numeric", "_frombuffer"): np.empty(0).__reduce_ex__(5)[0],
    ("scipy.sparse.csr", "csr_matrix"): scipy.sparse.csr_matrix,
    ("scipy.sparse._csr", "csr_matrix"): scipy.sparse.csr_matrix,
    ("scipy.sparse._csr", "csr_array"): scipy.sparse.csr_array,
    ("copy_reg", "_reconstructor"): copyreg._reconstructor,  # type: ignore[attr-defined]
    ("copyreg", "_reconstructor"): copyreg._reconstructor,  # type: ignore[attr-defined]
    ("__builtin__", "object"): object,
    ("builtins", "object"): object,
    ("_codecs", "encode"): _encode_latin1,
}


def _array(part: Any, name: str) -> Array:
    if isinstance(part, scipy.sparse.csr_matrix | scipy.sparse.csr_array):
        state, fields = vars(part), ("data", "indices", "indptr", "_shape")  # As pickled: anything.
        if not set(fields) <= state.keys():
            raise DataError(f"{name}: damaged sparse matrix: found {', '.join(state)} only")
        data, indices, indptr, shape = (_plain(state[field], name) for field in fields)
        return dense(data, indices, indptr, shape, name)
    return _plain(part, name)


def _plain(part: Any, name: str) -> Array:
    try:
        array = np.asarray(part)
    except Exception as error:  # Lists of anything.
        raise DataError(f"{name}: {error}") from None
    if array.dtype == object:
        raise DataError(f"{name}: found an array of Python objects, expected numbers")
    return array
