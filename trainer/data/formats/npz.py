"""NumPy's `.npz` with the arrays x_train, y_train and, for a test split, x_test, y_test.

Source: the layout of Keras's own `mnist.npz` (keras.datasets.mnist).
"""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from trainer.data.checks import check_example_shape, check_shape
from trainer.data.dataset import Array, RawSplits, ReadRequest
from trainer.data.formats import arrays
from trainer.data.formats.arrays import ArrayFile, Readable
from trainer.data.listing import Candidate
from trainer.data.shards.shard_format import Stream
from trainer.errors import DataError, Location

NAME = "an .npz with x_train, y_train, x_test, y_test"

_MAX_HEADER_BYTES = 20_000  # NumPy itself accepts headers of up to 10,000 bytes.


def recognises(files: Sequence[Path]) -> bool:
    """Returns whether this is one zip file of arrays, by content or, if damaged, by name."""
    return len(files) == 1 and (
        "x_train" in array_names(files[0])
        or (files[0].suffix == ".npz" and "indptr" not in array_names(files[0]))
    )


def read(candidate: Candidate, request: ReadRequest) -> RawSplits:
    """Reads the arrays of both splits.

    Raises:
        DataError: the file is damaged, or an array is missing or holds objects.
    """
    (file,) = candidate.files
    splits = {
        split: (read_array(file, x), read_array(file, y))
        for split, (x, y) in _split_arrays(file, request).items()
    }
    return RawSplits(splits["train"], splits.get("test"))


def stream(candidate: Candidate, request: ReadRequest) -> Stream | None:
    """Returns the examples of both splits as a stream; None unless they are numbers in C order.

    Raises:
        DataError: as `read`; perhaps when a damaged block is read.
    """
    (file,) = candidate.files
    splits = {}
    for split, (x, y) in _split_arrays(file, request).items():
        examples = _array_file(file, x)
        if examples is None:
            return None
        splits[split] = examples, read_array(file, y)
    return arrays.stream(splits, request)


def array_names(file: Path) -> set[str]:
    """Returns the names of the arrays in an `.npz`; an empty set for any other file."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except Exception:  # zipfile raises nearly any exception for a damaged archive.
        return set()
    return {name.removesuffix(".npy") for name in names if name.endswith(".npy")}


def read_array(file: Path, name: str) -> Array:
    """Reads one array of an `.npz`.

    Raises:
        DataError: the array is missing, damaged or too large, or it holds Python objects.
    """
    shape, _, dtype = _array_header(file, name)
    check_shape(_location(file, name), shape, dtype.itemsize)
    with _translate_errors(file, name), np.load(file, allow_pickle=False) as archive:
        return np.asarray(archive[name])


def read_npy_header(content: Readable, location: Location) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Reads the header of an `.npy`; returns the shape and dtype of the array that follows.

    Args:
        content: stream at the start of the file.
        location: of the file.

    Raises:
        DataError: the header is damaged, or is of Python objects or of an array in Fortran order.
    """
    start = content.read(10)
    size = int.from_bytes(start[8:], "little")  # In version 1, which NumPy writes for arrays.
    try:
        shape, fortran_order, dtype = _parse_header(io.BytesIO(start + content.read(size)))
    except Exception as error:  # NumPy raises nearly any exception for a damaged header.
        raise DataError(f"not an .npy file, or a damaged one: {error}", location) from None
    if dtype.hasobject or (fortran_order and len(shape) > 1):
        kind = "of Python objects" if dtype.hasobject else "in Fortran order"
        raise DataError(f"an array {kind}, expected numbers in C order", location)
    return shape, dtype


def _split_arrays(file: Path, request: ReadRequest) -> dict[str, tuple[str, str]]:
    """Returns by split the names of the arrays of examples and of labels."""
    if not zipfile.is_zipfile(file):
        raise DataError("damaged or truncated, expected a zip file of arrays", Location(file))
    train, test = ("x_train", "y_train"), ("x_test", "y_test")
    names = array_names(file)
    if not request.needs_training and not {*train} & names:
        return {"train": test}
    return {"train": train, "test": test} if {*test} & names else {"train": train}


def _array_file(file: Path, name: str) -> ArrayFile | None:
    """Returns an array whose values are not read yet; None unless it is numbers in C order.

    Raises:
        DataError: as `read_array`.
    """
    shape, fortran_order, dtype = _array_header(file, name)
    if fortran_order or dtype.kind not in "biuf":
        return None
    check_example_shape(_location(file, name), shape[1:])

    @contextlib.contextmanager
    def open_values() -> Iterator[IO[bytes]]:
        with _translate_errors(file, name), _open_array(file, name) as content:
            _parse_header(content)
            yield content

    return ArrayFile(_location(file, name), shape, dtype, open_values)


def _array_header(file: Path, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Returns shape, Fortran order and dtype of an array."""
    names = array_names(file)
    if name not in names:
        raise DataError(f"no array {name!r}, found {', '.join(sorted(names))}", Location(file))
    with _translate_errors(file, name), _open_array(file, name) as content:
        # NumPy would read as many bytes as the header claims to have, perhaps gigabytes.
        shape, fortran_order, dtype = _parse_header(io.BytesIO(content.read(_MAX_HEADER_BYTES)))
    if dtype.hasobject:
        raise DataError(
            "holds Python objects, which can run code when read; expected numbers or strings (save "
            "it with a numeric or str dtype)",
            _location(file, name),
        )
    return shape, fortran_order, dtype


@contextlib.contextmanager
def _open_array(file: Path, name: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(file) as archive, archive.open(f"{name}.npy") as content:
        yield content


@contextlib.contextmanager
def _translate_errors(file: Path, name: str) -> Iterator[None]:
    """Raises the errors of a damaged archive as DataError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # zipfile and NumPy raise nearly any exception.
        raise DataError(f"damaged: {error}", _location(file, name)) from None


def _location(file: Path, name: str) -> Location:
    return Location(file, f"array {name!r}")


def _parse_header(header: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Returns shape, Fortran order and dtype; leaves the stream at the first value."""
    version = np.lib.format.read_magic(header)
    parse = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    shape, fortran_order, dtype = parse(header)
    return shape, fortran_order, dtype
