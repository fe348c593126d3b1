"""NumPy's `.npz` with the arrays x_train, y_train and, if there is a test part, x_test, y_test.

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

from trainer.data.checks import check_example, check_shape
from trainer.data.dataset import Array, RawSplits, ReadRequest
from trainer.data.formats import arrays
from trainer.data.formats.arrays import ArrayFile, Readable
from trainer.data.shards.shard_format import Stream
from trainer.errors import DataError, Location

NAME = "an .npz with x_train, y_train, x_test, y_test"

_MAX_HEADER_BYTES = 20_000  # NumPy itself takes 10,000 at most.


def members(file: Path) -> set[str]:
    """Returns the names of the arrays in an `.npz`; none if it is not one."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except Exception:  # A damaged archive raises nearly anything.
        return set()
    return {name.removesuffix(".npy") for name in names if name.endswith(".npy")}


def array(file: Path, name: str) -> Array:
    """Reads one array of an `.npz`.

    Raises:
        DataError: there is no such array, it is damaged or too large, or it holds Python objects.
    """
    shape, _, dtype = _header_of(file, name)
    check_shape(_place(file, name), shape, dtype.itemsize)
    with _explained(file, name), np.load(file, allow_pickle=False) as archive:
        return np.asarray(archive[name])


def npy_header(content: Readable, place: Location) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Reads the header of an `.npy`, and returns shape and type of the array that follows.

    Args:
        content: of the file, from its start.
        place: of the file.

    Raises:
        DataError: it is no such header, or one of Python objects.
    """
    start = content.read(10)
    size = int.from_bytes(start[8:], "little")  # So far only of version 1, which arrays have.
    try:
        shape, columns_first, dtype = _header(io.BytesIO(start + content.read(size)))
    except Exception as error:  # A damaged header raises nearly anything.
        raise DataError(f"no .npy, or a damaged one: {error}", place) from None
    if dtype.hasobject or (columns_first and len(shape) > 1):
        found = "of Python objects" if dtype.hasobject else "in Fortran's order"
        raise DataError(f"an array {found}, expected numbers in C order", place)
    return shape, dtype


def _stored(file: Path, name: str) -> ArrayFile | None:
    """Returns an array whose values are not read yet; None if they are no numbers in C order.

    Raises:
        DataError: as `array`.
    """
    shape, columns_first, dtype = _header_of(file, name)
    if columns_first or dtype.kind not in "biuf":
        return None
    check_example(_place(file, name), shape[1:])

    @contextlib.contextmanager
    def behind_header() -> Iterator[IO[bytes]]:
        with _explained(file, name), _member(file, name) as content:
            _header(content)
            yield content

    return ArrayFile(_place(file, name), shape, dtype, behind_header)


def _header_of(file: Path, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Returns what `_header` finds in front of an array."""
    if name not in members(file):
        found = ", ".join(sorted(members(file)))
        raise DataError(f"no array {name!r}, found {found}", Location(file))
    with _explained(file, name), _member(file, name) as content:
        # NumPy would first read as much header as the file says it has, gigabytes of zeros.
        shape, columns_first, dtype = _header(io.BytesIO(content.read(_MAX_HEADER_BYTES)))
    if dtype.hasobject:
        raise DataError(
            "holds Python objects, which can run code when read; expected numbers or strings (save "
            "it with a numeric or str dtype)",
            _place(file, name),
        )
    return shape, columns_first, dtype


@contextlib.contextmanager
def _member(file: Path, name: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(file) as archive, archive.open(f"{name}.npy") as content:
        yield content


@contextlib.contextmanager
def _explained(file: Path, name: str) -> Iterator[None]:
    """Turns whatever a damaged archive raises into a DataError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # It raises nearly anything.
        raise DataError(f"damaged: {error}", _place(file, name)) from None


def _place(file: Path, name: str) -> Location:
    return Location(file, f"array {name!r}")


def _header(header: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Takes the header of an array apart: shape, whether it is in Fortran's order, type."""
    version = np.lib.format.read_magic(header)
    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    shape, columns_first, dtype = read(header)
    return shape, columns_first, dtype


def recognises(files: Sequence[Path]) -> bool:
    """Tells whether this is one zip file of arrays, or named as one."""
    return len(files) == 1 and (
        "x_train" in members(files[0])
        or (files[0].suffix == ".npz" and "indptr" not in members(files[0]))
    )


def read(files: Sequence[Path], request: ReadRequest) -> RawSplits:
    """Reads the arrays of both parts.

    Raises:
        DataError: the file is damaged, or an array is missing or holds objects.
    """
    (file,) = files
    parts = _parts(file, request)
    found = {part: (array(file, x), array(file, y)) for part, (x, y) in parts.items()}
    return RawSplits(found["train"], found.get("test"))


def stream(files: Sequence[Path], request: ReadRequest) -> Stream | None:
    """Gives the examples of both parts some at a time.

    Returns:
        None if they are no numbers in C order.

    Raises:
        DataError: as `read`; what is damaged may show when its block is asked for.
    """
    (file,) = files
    found = {}
    for part, (x, y) in _parts(file, request).items():
        examples = _stored(file, x)
        if examples is None:
            return None
        found[part] = examples, array(file, y)
    return arrays.stream(found, request)


def _parts(file: Path, request: ReadRequest) -> dict[str, tuple[str, str]]:
    """Returns the names of the arrays of each part: of examples, and of labels."""
    if not zipfile.is_zipfile(file):
        raise DataError("damaged or truncated, expected a zip file of arrays", Location(file))
    train, test = ("x_train", "y_train"), ("x_test", "y_test")
    names = members(file)
    if not request.needs_training and not {*train} & names:
        return {"train": test}
    return {"train": train, "test": test} if {*test} & names else {"train": train}
