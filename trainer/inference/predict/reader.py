"""Examples from any number of files, one after another, little of which is in memory at a time.

What cannot be read becomes an item that says why, and the others go on.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import os
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from trainer import storage
from trainer.data.dataset import Array
from trainer.data.formats import idx, images, npz, text
from trainer.data.inputs import InputSignature
from trainer.errors import DataError, Location, StorageError, TransientStorageError, UsageError
from trainer.inference.predict.lines import Lines, Rows
from trainer.storage import File

STDIN = "-"
_MAX_IMAGE_BYTES = 100_000_000  # Of a file; a larger one is no image for a model here.
_MAX_TEXT_BYTES = 4 * text.MAX_CHARACTERS  # Of a line.
_MAX_VALUE_BYTES = 32  # Of a number in a line.
_NPY = b"\x93NUMPY"
_USUAL_COLUMN = "text"
_SEVERAL = (".csv", ".jsonl", ".npy", ".idx")  # What holds several examples for any model.


class Item(NamedTuple):
    """One example to predict, or what could not be read.

    Attributes:
        name: of its file, with the number of the line or of the example in it, from 1.
        example: as `InputSignature` makes it; None if it could not be read.
        error: why not.
    """

    name: str
    example: Array | None
    error: str = ""


# Instead of an item: the next one is not there yet, and what came before it need not wait.
PAUSE = None
Items = Iterator[Item | None]


@dataclass(frozen=True)
class Reader:
    """Reads files for one model.

    Attributes:
        input: what the model takes.
        column: of CSV the column, of JSON objects the field that holds an example.
    """

    input: InputSignature
    column: str | None = None

    def check(self, paths: Sequence[str]) -> None:
        """Raises UsageError if the names alone say that no file is for this model."""
        misfits = [self._misfit(path) for path in paths]
        if all(misfits):
            raise UsageError(f"{paths[0]}: {misfits[0]}")

    def items(self, paths: Sequence[str]) -> Items:
        """Gives an item for each example and for each file or line that is none, in order.

        Args:
            paths: files, folders and patterns, local or gs://; "-" for stdin.

        Raises:
            TransientStorageError: the storage failed; trying again may help.
        """
        files = itertools.chain.from_iterable(map(_files, paths))
        for alone, group in itertools.groupby(files, self._is_one_image):
            if alone:
                yield from storage.concurrent_map(self._image, group)
            else:
                yield from itertools.chain.from_iterable(map(self._several, group))

    def _misfit(self, path: str) -> str | None:
        """Returns what is wrong with a file, by its name; None if that says nothing."""
        suffix, found = _suffix(path), ""
        if self.input.kind != "image" and suffix in images.SUFFIXES:
            found = "an image"
        if self.input.kind != "text" and suffix == ".txt":
            found = "texts"
        if self.input.kind == "text" and suffix in (".npy", ".idx"):
            found = "numbers"
        return f"found {found}, expected {self.input.expected()}" if found else None

    def _is_one_image(self, file: File) -> bool:
        several = file.path == STDIN or _suffix(file.path) in (*_SEVERAL, ".txt")
        return self.input.kind == "image" and not several

    def _image(self, file: File) -> Item:
        try:
            content = file.read(_MAX_IMAGE_BYTES)
            return Item(file.path, self.input.from_image(content, Location(file.path)))
        except (DataError, StorageError) as error:
            return _bad(file.path, error)

    def _several(self, file: File) -> Items:
        try:
            misfit = self._misfit(file.path)
            if misfit:
                raise DataError(misfit)
            if file.path == STDIN:
                yield PAUSE
            with file.open() as content:
                yield from self._reading(content, file.path)(content, file.path)
        except (DataError, StorageError) as error:
            yield _bad(file.path, error)

    def _reading(
        self, content: io.BufferedReader, path: str
    ) -> Callable[[io.BufferedReader, str], Items]:
        """Returns what reads the examples of a file, by its name, or of stdin by what it holds."""
        suffix, text_model = _suffix(path), self.input.kind == "text"
        if path == STDIN:
            start = content.peek(1)
            if text_model and self.column is None:
                suffix = ".txt"
            elif start.lstrip()[:1] in (b"[", b"{"):
                suffix = ".jsonl"
            elif text_model or (b"\0" not in start and (start or self.input.kind == "vector")):
                suffix = ".csv"
            elif not start.startswith((b"\0\0", b"\x1f\x8b", b"\x93NUMPY")):
                return self._one_image
        if suffix in (".csv", ".jsonl"):
            return self._csv if suffix == ".csv" else self._json
        if text_model:
            return self._text
        if self.input.kind == "vector" and suffix not in _SEVERAL and path != STDIN:
            raise DataError(f"found {suffix or 'no suffix'}, expected {', '.join(_SEVERAL)}")
        return self._array

    def _one_image(self, content: io.BufferedReader, name: str) -> Items:
        yield Item(name, self.input.from_image(content.read(_MAX_IMAGE_BYTES), Location(name)))

    def _text(self, content: io.BufferedReader, name: str) -> Items:
        """Gives a text a line, as the data set of texts has it."""

        def example(line: bytes) -> Array | None:
            stripped = text.line(line)
            return self.input.from_text(stripped) if stripped else None

        if b"\0" in content.peek(1):  # Else each line of it would be told of.
            raise DataError("holds NUL characters; is it UTF-16, or no text?")
        yield from _each(self._lines(content, name), name, example)

    def _json(self, content: io.BufferedReader, name: str) -> Items:
        """Gives what JSON says in each line: an example, or an object with one."""

        def example(line: bytes) -> Array | None:
            return self.input.from_json(self._value(line)) if line.strip() else None

        yield from _each(self._lines(content, name), name, example)

    def _value(self, line: bytes) -> Any:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"not JSON: {error}") from None
        field = self.column or (_USUAL_COLUMN if self.input.kind == "text" else None)
        if field is None or not isinstance(value, dict):
            return value
        if field not in value:
            raise DataError(f"no field {field!r}, found {_some(value)}; --column names it")
        return value[field]

    def _csv(self, content: io.BufferedReader, name: str) -> Items:
        """Gives an example a row: a text, or numbers, whose names a first row may hold."""
        rows = Rows(self._lines(content, name))
        first = next(rows, None)
        if first is None:
            return
        if self.input.kind == "text":
            yield from _each(rows, name, self._cell_reader(first))
            return
        self._check_count(first)  # One line for the whole file, not one for each of its rows.
        if any(map(_is_number, first)):
            rows.put_back(first)
        yield from _each(rows, name, self._numbers)

    def _cell_reader(self, header: Sequence[str]) -> Callable[[Sequence[str]], Array]:
        column = self.column or _USUAL_COLUMN
        if column not in header:
            raise DataError(
                f"no column {column!r} in its first row, found {_some(header)}; --column names it"
            )
        place = header.index(column)

        def example(row: Sequence[str]) -> Array:
            if len(row) <= place:
                raise DataError(f"found {len(row)} columns, expected {len(header)}")
            return self.input.from_text(row[place])

        return example

    def _numbers(self, row: Sequence[str]) -> Array:
        self._check_count(row)
        try:
            numbers = np.array(row, np.float64)
        except ValueError:
            found = next(cell for cell in row if not _is_number(cell))
            raise DataError(f"found {found!r}, expected {self.input.expected()}") from None
        return self.input.from_numbers(numbers.reshape(self.input.shape))

    def _check_count(self, row: Sequence[str]) -> None:
        expected = math.prod(self.input.shape)
        if len(row) != expected:
            hint = "; cut -d, -f2- leaves out the first" if len(row) == expected + 1 else ""
            raise DataError(
                f"found {len(row)} columns, expected {expected}, {self.input.expected()}{hint}"
            )

    def _array(self, content: io.BufferedReader, name: str) -> Items:
        """Gives the examples of an array (N, ...), IDX or .npy, gzipped or not."""
        try:
            stream = idx.unzipped(content)
            header = npz.npy_header if stream.peek(6).startswith(_NPY) else idx.header
            shape, dtype = header(stream, Location(name))
            one = _one_of(shape, dtype)
            self.input.from_numbers(one)  # One line for the file, not one for each of its examples.
            for number in range(1, shape[0] + 1):
                values = stream.read(one.size * dtype.itemsize)
                if len(values) < one.size * dtype.itemsize:
                    raise DataError(f"ends after {number - 1} examples, expected {shape[0]}")
                example = np.frombuffer(values, dtype).reshape(one.shape)
                yield from _made(f"{name}:{number}", self.input.from_numbers, example)
            if stream.read(1):
                raise DataError(f"more than the {shape[0]} examples that its header promises")
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"damaged or truncated gzip: {error}") from None

    def _lines(self, content: io.BufferedReader, name: str) -> Lines:
        most = _MAX_TEXT_BYTES
        if self.input.kind != "text":
            most += _MAX_VALUE_BYTES * math.prod(self.input.shape)
        return Lines(content, max_bytes=most, live=name == STDIN)


def _each(source: Lines | Rows, name: str, work: Callable[[Any], Array | None]) -> Items:
    """Gives what `work` makes of each line or row, with its number."""
    while True:
        if source.waits():
            yield PAUSE
        try:
            found = next(source, None)
        except DataError as error:
            yield _bad(f"{name}:{source.number}", error)
            continue
        if found is None:
            return
        yield from _made(f"{name}:{source.number}", work, found)


def _made(name: str, work: Callable[[Any], Array | None], found: Any) -> Items:
    """Gives the one item that `work` makes of what was found, or none if it is nothing."""
    try:
        example = work(found)
    except DataError as error:
        yield _bad(name, error)
    else:
        if example is not None:
            yield Item(name, example)


def _bad(name: str, error: Exception) -> Item:
    """Returns the item of what could not be read.

    Raises:
        TransientStorageError: that is the error, which says nothing of the file.
    """
    if isinstance(error, TransientStorageError):
        raise error
    found = error.found if isinstance(error, DataError) else str(error).removeprefix(f"{name}: ")
    return Item(name, None, " ".join(found.split()))


@dataclass(frozen=True)
class _Stdin:
    path: str = STDIN

    def read(self, max_bytes: int) -> bytes:
        with self.open() as content:
            return content.read(max_bytes)

    @contextlib.contextmanager
    def open(self) -> Iterator[io.BufferedReader]:
        # Not sys.stdin, whose lock a thread that waits for input would hold at the program's end.
        with storage.explained(self.path):
            yield io.BufferedReader(io.FileIO(0, closefd=False))


@dataclass(frozen=True)
class _Missing:
    path: str
    error: StorageError

    def read(self, max_bytes: int) -> bytes:
        raise self.error

    def open(self) -> contextlib.AbstractContextManager[io.BufferedReader]:
        raise self.error


def _files(path: str) -> Iterator[File]:
    """Gives the files that a path stands for; if there are none, one that says why."""
    try:
        yield from [_Stdin()] if path == STDIN else storage.files(path)
    except StorageError as error:
        yield _Missing(path, error)


def _suffix(path: str) -> str:
    """Returns the end of a name that says what is in the file: ".png", or ".idx" for all IDX."""
    return ".idx" if idx.is_named(path) else os.path.splitext(path)[1].lower()


def _one_of(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Returns an example of zeros, which takes no memory, whatever a header promises."""
    try:
        return np.broadcast_to(np.zeros((), dtype), shape[1:])
    except ValueError as error:
        raise DataError(f"an array of {shape[:5]} examples: {error}") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _some(names: Collection[str]) -> str:
    return ", ".join(map(repr, itertools.islice(names, 5))) or "nothing"
