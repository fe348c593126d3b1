"""NumPy's `.npz` and `.npy` files of examples and labels, which are distinguished by their names.

Source: the layouts of Keras's `mnist.npz` (keras.datasets.mnist) and of MedMNIST's archives.
"""

from __future__ import annotations

import contextlib
import io
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from trainer.data import splits
from trainer.data.arrays import named_arrays
from trainer.data.arrays.array_files import ArrayFile, Readable
from trainer.data.arrays.named_arrays import NamedArray
from trainer.data.checks import check_example_shape, check_shape
from trainer.data.dataset import Array, RawSplits, ReadRequest
from trainer.data.listing import Candidate, Listing
from trainer.data.shards.shard_format import Stream
from trainer.errors import DataError, Location

NAME = "an .npz or .npy files with x_train, y_train, x_test, y_test, or images and labels"

_OBJECTS = (
    "holds Python objects, which can run code when read; expected numbers or strings (save it with "
    "a numeric or str dtype)"
)
_ZIP = b"PK\x03\x04"
_MAX_HEADER_BYTES = 20_000  # NumPy itself accepts headers of up to 10,000 bytes.


def propose(listing: Listing, request: ReadRequest) -> Candidate | None:
    """Returns which arrays would be read as examples and labels; None if there are no arrays."""
    archives = [file for file in listing.files if _is_archive(file, listing)]
    singles = [file for file in listing.files if file.suffix.lower() == ".npy"]
    if not archives and not singles:
        return None
    files = (*archives, *singles)
    left_out = {file: "no array" for file in listing.files if file not in set(files)}
    try:
        assignment = named_arrays.assign(
            _find_arrays(archives, singles, listing), needs_training=request.needs_training
        )
    except DataError as error:
        if singles and not listing.is_folder:
            error = DataError(f"{error.problem}. Give the folder of all .npy files", error.location)
        located = error.at(Location(files[0] if len(files) == 1 else listing.root))
        return Candidate(
            format=sys.modules[__name__],
            files=files,
            evidence=0,
            summary=NAME,
            left_out=left_out,
            error=located,
        )
    return Candidate(
        format=sys.modules[__name__],
        files=files,
        evidence=3,
        summary=assignment.describe(),
        left_out=left_out,
        plan=assignment,
    )


def read(candidate: Candidate, request: ReadRequest) -> RawSplits:
    """Reads the arrays of all splits.

    Raises:
        DataError: a file is damaged, or holds no examples and labels.
    """
    return named_arrays.read(candidate.plan, _place(candidate))


def stream(candidate: Candidate, request: ReadRequest) -> Stream | None:
    """Returns the examples of all splits as a stream; None unless they are numbers in C order.

    Raises:
        DataError: as `read`; perhaps when a damaged block is read.
    """
    return named_arrays.stream(candidate.plan, request, _place(candidate))


def _place(candidate: Candidate) -> Location:
    files = candidate.files
    return Location(files[0] if len(files) == 1 else files[0].parent)


def _is_archive(file: Path, listing: Listing) -> bool:
    """Returns whether a file is a zip file of dense arrays, by name, or by content at the top."""
    named = file.suffix.lower() == ".npz"
    if not named:
        if listing.is_folder and file.parent != listing.root:
            return False
        with file.open("rb") as content:
            if content.read(len(_ZIP)) != _ZIP:
                return False
    names = array_names(file)
    is_sparse = {"format", "shape", "data"} <= names
    return not is_sparse and (bool(names) or named)


def _find_arrays(
    archives: Sequence[Path], singles: Sequence[Path], listing: Listing
) -> list[NamedArray]:
    """Returns the arrays of all files, under their names in archives, or their paths.

    Raises:
        DataError: an archive is damaged, or it is not clear how several belong together.
    """
    split_of = {file: splits.from_name(file.stem) for file in archives}
    if (
        archives
        and (singles or len(archives) > 1)
        and not (
            None not in split_of.values()
            and len({*split_of.values()}) == len(archives)
            and not singles
        )
    ):
        names = ", ".join(file.name for file in (*archives, *singles)[:5])
        raise DataError(
            f"found {names}, expected one archive, or one for each split (train.npz, test.npz), or "
            "only .npy files; give one of them to --data"
        )
    found = []
    for file in archives:
        if not zipfile.is_zipfile(file):
            raise DataError("damaged or truncated, expected a zip file of arrays", Location(file))
        prefix = f"{split_of[file]}/" if len(archives) > 1 else ""
        found += [_named(file, name, prefix) for name in sorted(array_names(file))]
    return found + [_single(file, listing) for file in singles]


def _named(file: Path, name: str, prefix: str) -> NamedArray:
    shape, _, dtype = _array_header(file, name)
    return NamedArray(
        prefix + name,
        shape,
        dtype,
        lambda: read_array(file, name),
        lambda: _array_file(file, name),
    )


def _single(file: Path, listing: Listing) -> NamedArray:
    """Returns the array of an .npy file, under its path without the extension."""
    shape, fortran_order, dtype = _npy_header(file)
    name = "/".join(listing.relative(file)).removesuffix(file.suffix)

    def values() -> Array:
        check_shape(Location(file), shape, dtype.itemsize)
        with _translate_npy_errors(file):
            return np.asarray(np.load(file, allow_pickle=False))

    @contextlib.contextmanager
    def open_values() -> Iterator[IO[bytes]]:
        with _translate_npy_errors(file), file.open("rb") as content:
            _parse_header(content)
            yield content

    def array_file() -> ArrayFile | None:
        if fortran_order or dtype.kind not in "biuf":
            return None
        check_example_shape(Location(file), shape[1:])
        return ArrayFile(Location(file), shape, dtype, open_values)

    return NamedArray(name, shape, dtype, values, array_file)


def _npy_header(file: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    with _translate_npy_errors(file), file.open("rb") as content:
        shape, fortran_order, dtype = _parse_header(io.BytesIO(content.read(_MAX_HEADER_BYTES)))
    if dtype.hasobject:
        raise DataError(_OBJECTS, Location(file))
    return shape, fortran_order, dtype


@contextlib.contextmanager
def _translate_npy_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # NumPy raises nearly any exception for a damaged file.
        problem = f"not an .npy file, or a damaged one: {error}"
        raise DataError(problem, Location(file)) from None


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
        raise DataError(_OBJECTS, _location(file, name))
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
