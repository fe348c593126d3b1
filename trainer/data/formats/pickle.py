"""A pickle `[x_train, y_train, x_test, y_test]` of SciPy CSR and NumPy arrays.

The reference scripts keep their data in this form. Unpickling can run any code, so a pickle is
refused unless `--allow-pickle` is given, and then read by an unpickler that accepts only the
classes and functions that such arrays consist of.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.dataset import Array, RawSplits, ReadRequest
from trainer.data.formats.sparse import to_dense
from trainer.data.listing import Candidate
from trainer.errors import DataError, Location
from trainer.runtime import memory

NAME = "a pickle of [x_train, y_train, x_test, y_test] (with --allow-pickle)"

_SUFFIXES = (".pickle", ".pkl")
_ALTERNATIVE = "np.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)"


def recognises(files: Sequence[Path]) -> bool:
    """Returns whether this is one pickle, by its first bytes (protocols 0 to 5) or its name."""
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


def read(candidate: Candidate, request: ReadRequest) -> RawSplits:
    """Reads the four arrays; sparse ones become dense.

    Raises:
        DataError: pickles are not allowed, or this one holds anything but such arrays.
    """
    (file,) = candidate.files
    if not request.options.allow_pickle:
        raise DataError(
            "a pickle can run any code when it is read, so it is refused. Expected an .npz: "
            f"{_ALTERNATIVE}. If you trust its source, give --allow-pickle.",
            Location(file),
        )
    memory.check_data(2 * file.stat().st_size, "a pickle of this size", Location(file))
    try:
        content = _ArrayUnpickler(io.BytesIO(file.read_bytes()), encoding="latin1").load()
        if not isinstance(content, list | tuple) or len(content) != 4:
            raise DataError(
                f"found {type(content).__name__}, expected [x_train, y_train, x_test, y_test]"
            )
        x_train, y_train, x_test, y_test = (_to_array(item) for item in content)
    except DataError as error:
        raise error.at(Location(file)) from None
    except Exception as error:  # pickle raises nearly any exception for damaged content.
        problem = f"damaged pickle: {type(error).__name__}: {error}"
        raise DataError(problem, Location(file)) from None
    return RawSplits(train=(x_train, y_train), test=(x_test, y_test))


# The unpickler in Python: in the one in C four bytes of input can allocate gigabytes for the memo.
class _ArrayUnpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        replacement = _ALLOWED.get((module.replace("numpy.core.", "numpy._core."), name))
        if replacement is None:
            raise DataError(
                f"found {module}.{name} in a pickle, expected NumPy and SciPy arrays only"
            )
        return replacement


# Replacements for the classes that a pickle names: NumPy's own classes crash on an invalid state.
# They store their state, and `check` validates it once the pickle is loaded.


class _Dtype:
    def __init__(self, name: object, *_: object) -> None:
        self._name = name
        self._order: Any = "="

    def __setstate__(self, state: Any) -> None:
        self._order = str(state[1])

    def check(self) -> np.dtype[Any]:
        """Returns the dtype; raises DataError unless it is one of numbers."""
        if not re.fullmatch("[biuf][1248]", str(self._name)) or self._order not in "<>=|":
            raise DataError(f"found an array of type {self._name}, expected numbers")
        return np.dtype(str(self._name)).newbyteorder(self._order)


class _Array:
    def __init__(self, data: object = b"", dtype: object = None, *layout: Any) -> None:
        shape, order = layout or ((0,), "C")
        self._state = (shape, dtype, order == "F", data)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self._state = (shape, dtype, fortran, data)

    def check(self) -> Array:
        """Returns the array; raises DataError unless it holds numbers."""
        shape, dtype, fortran, data = self._state
        if isinstance(data, str):  # Python 2 wrote bytes as str.
            data = data.encode("latin1")
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
            raise DataError("found an array of Python objects, expected numbers")
        return np.frombuffer(data, dtype.check()).reshape(shape, order="F" if fortran else "C")


class _Csr:
    """A CSR matrix; unpickling sets the attributes that SciPy's class has."""

    def check(self) -> Array:
        """Returns the matrix as a dense array; raises DataError if a part of it is missing."""
        arrays = [vars(self).get(field) for field in ("data", "indices", "indptr")]
        shape = vars(self).get("_shape")
        if not isinstance(shape, tuple) or not all(isinstance(each, _Array) for each in arrays):
            raise DataError(f"damaged sparse matrix: found {', '.join(vars(self)) or 'nothing'}")
        sizes = [size.check() if isinstance(size, _Array) else size for size in shape]
        return to_dense(*(each.check() for each in arrays), np.array(sizes))  # type: ignore


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _scalar(dtype: object, data: object) -> _Array:
    return _Array(data, dtype, (), "C")


def _reconstructor(kind: type, *_: object) -> Any:
    return kind()


def _encode_latin1(text: str, encoding: str) -> bytes:
    # Protocols 0 to 2 write bytes in this way; the real _codecs.encode would accept any codec.
    if encoding != "latin1":
        raise DataError(f"found the codec {encoding} in a pickle, expected latin1")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _Array,
    ("scipy.sparse.csr", "csr_matrix"): _Csr,
    ("scipy.sparse._csr", "csr_matrix"): _Csr,
    ("scipy.sparse._csr", "csr_array"): _Csr,
    ("copy_reg", "_reconstructor"): _reconstructor,
    ("copyreg", "_reconstructor"): _reconstructor,
    ("__builtin__", "object"): object,
    ("builtins", "object"): object,
    ("_codecs", "encode"): _encode_latin1,
}


def _to_array(item: Any) -> Array:
    if isinstance(item, _Array | _Csr):
        return item.check()
    array = np.asarray(item)  # A list of numbers.
    if array.dtype == object:
        raise DataError("found a list of Python objects, expected numbers")
    return array
