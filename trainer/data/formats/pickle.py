"""Pickles of arrays: `[x_train, y_train, x_test, y_test]`, or dictionaries such as CIFAR-10's.

The reference scripts keep their data in the first form. Unpickling can run any code, so a pickle is
refused unless `--allow-pickle` is given, and then read by an unpickler that accepts only the
classes and functions that such arrays consist of.

Source of the second form: https://www.cs.toronto.edu/~kriz/cifar.html (data_batch_1, test_batch).
"""

from __future__ import annotations

import dataclasses
import io
import math
import pickle
import re
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data import splits
from trainer.data.arrays import named_arrays
from trainer.data.arrays.named_arrays import NamedArray
from trainer.data.dataset import Array, RawSplits, ReadRequest
from trainer.data.formats import images
from trainer.data.formats.sparse import to_dense
from trainer.data.listing import Candidate, Listing
from trainer.data.tables import rows
from trainer.errors import DataError, Location
from trainer.runtime import memory
from trainer.runtime.log import LOGGER

NAME = "pickles of [x_train, y_train, x_test, y_test], or of CIFAR-10 (with --allow-pickle)"

_SUFFIXES = (".pickle", ".pkl", ".pickle.gz", ".pkl.gz")
_CIFAR_LABELS = {"batch_label", "fine_labels"}
_GZIP = b"\x1f\x8b"
_CHUNK_BYTES = 16 << 20
_ALTERNATIVE = "np.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)"


def propose(listing: Listing, request: ReadRequest) -> Candidate | None:
    """Returns the pickles of a folder, or one that the user named; None if there are none."""
    files = tuple(
        file
        for file in listing.files
        if (file.parent == listing.root or not listing.is_folder)
        and not images.is_image_name(file.name)
        and not rows.is_table(file)
        and _is_pickle(file)
    )
    if not files:
        return None
    chosen = set(files)
    return Candidate(
        format=sys.modules[__name__],
        files=files,
        evidence=3,
        summary="pickles of arrays" if len(files) > 1 else "a pickle of arrays",
        left_out={file: "no pickle" for file in listing.files if file not in chosen},
    )


def _is_pickle(file: Path) -> bool:
    """Returns whether a file is a pickle, by its first bytes (protocols 0 to 5) or its name."""
    if file.name.lower().endswith(_SUFFIXES):
        return True
    with file.open("rb") as content:
        head = content.read(4)
    return (
        (head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"))
        or head[:3] in (b"(lp", b"(dp")
        or head[:2] in (b"]q", b"](", b"}q", b"}(")
    )


def read(candidate: Candidate, request: ReadRequest) -> RawSplits:
    """Reads all arrays; sparse ones become dense.

    Several files are the parts of one data set: those named test_... are the test split.

    Raises:
        DataError: pickles are not allowed, or one holds anything but such arrays.
    """
    files = candidate.files
    if not request.options.allow_pickle:
        raise DataError(
            "a pickle can run any code when it is read, so it is refused. Expected an .npz: "
            f"{_ALTERNATIVE}. If you trust its source, give --allow-pickle.",
            Location(files[0]),
        )
    size_bytes = sum(file.stat().st_size for file in files)
    memory.check_data(2 * size_bytes, "a pickle of this size", Location(files[0]))
    if len(files) == 1:
        (file,) = files
        all_arrays = _arrays(file, _load(file))
    else:
        all_arrays = _join([(file, _arrays(file, _load(file), file.name)) for file in files])
    place = Location(files[0] if len(files) == 1 else files[0].parent)
    try:
        assignment = named_arrays.assign(all_arrays, needs_training=request.needs_training)
    except DataError as error:
        raise error.at(place) from None
    if assignment.unused:
        LOGGER.info("%s: not used: %s", place, ", ".join(assignment.unused))
    return named_arrays.read(assignment, place)


def _load(file: Path) -> Any:
    """Returns the content of a pickle, perhaps gzipped, with arrays as this module's classes."""
    try:
        content = file.read_bytes()
        if content[:2] == _GZIP:
            content = _decompressed(file, content)
        return _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    except DataError as error:
        raise error.at(Location(file)) from None
    except Exception as error:  # pickle raises nearly any exception for damaged content.
        problem = f"damaged pickle: {type(error).__name__}: {error}"
        raise DataError(problem, Location(file)) from None


def _decompressed(file: Path, content: bytes) -> bytes:
    """Returns the content of a gzip file; in steps, since a few bytes can claim gigabytes."""
    decompressor = zlib.decompressobj(wbits=31)
    output = bytearray()
    while content and not decompressor.eof:
        output += decompressor.decompress(content, _CHUNK_BYTES)
        content = decompressor.unconsumed_tail
        memory.check_data(2 * len(output), "a pickle of this size", Location(file))
    if not decompressor.eof:
        raise DataError("damaged or truncated gzip")
    return bytes(output)


def _arrays(file: Path, content: Any, name: str = "") -> list[NamedArray]:
    """Returns the arrays in the content of a pickle.

    Args:
        file: the pickle.
        content: what it holds: a dictionary of arrays by name, or a list of examples and labels.
        name: name of one of several files, which tells the split.
    """
    try:
        if isinstance(content, dict):
            return _arrays_of_dictionary(content, splits.from_name(name) if name else None)
        if isinstance(content, list | tuple) and len(content) in (2, 3, 4, 6) and not name:
            return _arrays_of_list(content)
        raise DataError(
            f"found {type(content).__name__}, expected [x_train, y_train, x_test, y_test], or a "
            f"dictionary of arrays: {named_arrays.EXPECTED}"
        )
    except DataError as error:
        raise error.at(Location(file)) from None
    except Exception as error:  # NumPy raises several exceptions for a state that is not valid.
        problem = f"damaged pickle: {type(error).__name__}: {error}"
        raise DataError(problem, Location(file)) from None


def _arrays_of_list(content: Sequence[Any]) -> list[NamedArray]:
    """Returns the arrays of a list: two, four or six, or a pair for each split."""
    is_nested = all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in content)
    if is_nested and len(content) < 4 and not any(_is_number(x) for pair in content for x in pair):
        content = [item for pair in content for item in pair]
    all_arrays = [
        NamedArray.in_memory(f"item {number}", _to_array(item))
        for number, item in enumerate(content)
    ]
    named = []
    for split, (x, y) in named_arrays.in_order(all_arrays).items():
        named += [
            dataclasses.replace(x, name=f"x_{split}"), dataclasses.replace(y, name=f"y_{split}")
        ]  # fmt: skip
    return named


def _is_number(item: Any) -> bool:
    return isinstance(item, int | float | str)


def _arrays_of_dictionary(content: dict[Any, Any], split: str | None) -> list[NamedArray]:
    """Returns the arrays of a dictionary, with the split in their names, if it is known."""
    named = {_key(key): value for key, value in content.items()}
    is_cifar = _CIFAR_LABELS & named.keys() and "data" in named
    all_arrays = []
    for key, value in named.items():
        if not isinstance(value, _Array | _Csr | list | tuple):
            continue  # A description.
        values = _to_array(value, allows_text=True)
        if is_cifar and key == "data" and values.ndim == 2:
            values = _planes_to_images(values)
        is_name = key.endswith(("_names", "classes"))
        prefix = f"{split}_" if split is not None and not is_name else ""
        all_arrays.append(NamedArray.in_memory(f"{prefix}{key}", values))
    return all_arrays


def _key(key: Any) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


def _planes_to_images(values: Array) -> Array:
    """Returns CIFAR's rows of 32 x 32 red, then green, then blue pixels as (N, 32, 32, 3)."""
    side = math.isqrt(values.shape[1] // 3)
    if 3 * side * side != values.shape[1]:
        return values
    return values.reshape(-1, 3, side, side).transpose(0, 2, 3, 1)


def _join(parts: Sequence[tuple[Path, list[NamedArray]]]) -> list[NamedArray]:
    """Returns the arrays of several files; those of one name are joined in the order of files."""
    by_name: dict[str, list[NamedArray]] = {}
    for _, all_arrays in parts:
        for each in all_arrays:
            by_name.setdefault(each.name, []).append(each)
    joined = []
    for name, group in by_name.items():
        if len({each.shape[1:] for each in group}) > 1:
            shapes = ", ".join(each.describe() for each in group)
            raise DataError(f"found arrays of different shapes in several files: {shapes}")
        joined.append(NamedArray.in_memory(name, np.concatenate([each.read() for each in group])))
    return joined


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
        data, indices, starts = (each.check() for each in arrays if isinstance(each, _Array))
        return to_dense(data, indices, starts, np.array(sizes))


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


def _to_array(item: Any, *, allows_text: bool = False) -> Array:
    if isinstance(item, _Array | _Csr):
        return item.check()
    if isinstance(item, list | tuple):
        item = [each.check() if isinstance(each, _Array | _Csr) else each for each in item]
    array = np.asarray(item)  # A list of numbers.
    if array.dtype == object or (array.dtype.kind in "US" and not allows_text):
        raise DataError("found a list of Python objects, expected numbers")
    return array
