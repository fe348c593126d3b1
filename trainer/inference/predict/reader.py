"""Reads examples for `trainer predict` from any number of files, in constant memory.

An input that cannot be read becomes an item with an error; reading continues with the next.
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
_MAX_IMAGE_BYTES = 100_000_000  # Per file; larger ones are refused unread.
_MAX_TEXT_BYTES = 4 * text.MAX_CHARACTERS  # Per line; UTF-8 takes up to 4 bytes a character.
_MAX_VALUE_BYTES = 32  # Per number in a line.
_NPY_MAGIC = b"\x93NUMPY"
_DEFAULT_COLUMN = "text"
_MULTI_EXAMPLE = (".csv", ".jsonl", ".npy", ".idx")  # Files of many examples, for any model.


class Item(NamedTuple):
    """One example to predict, or the error of an input that could not be read.

    Attributes:
        name: path of the file; with ":" and the number of the line or the example, from 1, if the
            file holds several.
        example: as `InputSignature` returns it; None if it could not be read.
        error: why it could not be read; "" for an example.
    """

    name: str
    example: Array | None
    error: str = ""


# Yielded instead of an item when the input is idle: the items before it must not wait for more.
PAUSE = None
Items = Iterator[Item | None]
ToExample = Callable[[Any], Array | None]  # From a line, row or array; None for a blank one.


@dataclass(frozen=True)
class Reader:
    """Reads files for one model.

    Attributes:
        input: input of the model.
        column: CSV column or JSON field that holds an example; None for "text" (text models) or
            for the whole row or value.
    """

    input: InputSignature
    column: str | None = None

    def check(self, paths: Sequence[str]) -> None:
        """Raises UsageError if no file can be for this model, by the suffixes of the names."""
        mismatches = [self._mismatch(path) for path in paths]
        if all(mismatches):
            raise UsageError(f"{paths[0]}: {mismatches[0]}")

    def items(self, paths: Sequence[str]) -> Items:
        """Yields an item for each example, and for each file or line that is not one, in order.

        Args:
            paths: files, folders and patterns, local or gs://; "-" for stdin.

        Raises:
            TransientStorageError: the storage failed; trying again may help.
        """
        files = itertools.chain.from_iterable(map(_files, paths))
        for is_image, group in itertools.groupby(files, self._is_one_image):
            if is_image:
                yield from storage.concurrent_map(self._image, group)
            else:
                yield from itertools.chain.from_iterable(map(self._file_items, group))

    def _mismatch(self, path: str) -> str | None:
        """Returns why a file cannot be for this model, by its suffix; None if it can be."""
        suffix, content = _suffix(path), ""
        if self.input.kind != "image" and suffix in images.SUFFIXES:
            content = "an image"
        if self.input.kind != "text" and suffix == ".txt":
            content = "texts"
        if self.input.kind == "text" and suffix in (".npy", ".idx"):
            content = "numbers"
        return f"found {content}, expected {self.input.expected()}" if content else None

    def _is_one_image(self, file: File) -> bool:
        multiple = file.path == STDIN or _suffix(file.path) in (*_MULTI_EXAMPLE, ".txt")
        return self.input.kind == "image" and not multiple

    def _image(self, file: File) -> Item:
        try:
            content = file.read(_MAX_IMAGE_BYTES)
            return Item(file.path, self.input.from_image(content, Location(file.path)))
        except (DataError, StorageError) as error:
            return _error_item(file.path, error)

    def _file_items(self, file: File) -> Items:
        try:
            mismatch = self._mismatch(file.path)
            if mismatch:
                raise DataError(mismatch)
            if file.path == STDIN:
                yield PAUSE
            with file.open() as content:
                yield from self._choose_format(content, file.path)(content, file.path)
        except (DataError, StorageError) as error:
            yield _error_item(file.path, error)

    def _choose_format(
        self, content: io.BufferedReader, path: str
    ) -> Callable[[io.BufferedReader, str], Items]:
        """Returns the method that reads a file, by its suffix, or stdin, by its first bytes."""
        suffix, text_model = _suffix(path), self.input.kind == "text"
        if path == STDIN:
            start = content.peek(1)
            if text_model and self.column is None:
                suffix = ".txt"
            elif start.lstrip()[:1] in (b"[", b"{"):
                suffix = ".jsonl"
            elif text_model or (b"\0" not in start and (start or self.input.kind == "vector")):
                suffix = ".csv"
            elif not start.startswith((b"\0\0", b"\x1f\x8b", _NPY_MAGIC)):
                return self._one_image
        if suffix in (".csv", ".jsonl"):
            return self._csv if suffix == ".csv" else self._json
        if text_model:
            return self._text
        if self.input.kind == "vector" and suffix not in _MULTI_EXAMPLE and path != STDIN:
            raise DataError(f"found {suffix or 'no suffix'}, expected {', '.join(_MULTI_EXAMPLE)}")
        return self._array

    def _one_image(self, content: io.BufferedReader, name: str) -> Items:
        yield Item(name, self.input.from_image(content.read(_MAX_IMAGE_BYTES), Location(name)))

    def _text(self, content: io.BufferedReader, name: str) -> Items:
        """Yields one text per line, read as in a data set of texts; blank lines are skipped."""

        def example(line: bytes) -> Array | None:
            stripped = text.decode_line(line)
            return self.input.from_text(stripped) if stripped else None

        if b"\0" in content.peek(1):  # One error for the file, not one for each of its lines.
            raise DataError("found NUL characters, expected UTF-8 text; is it UTF-16 or binary?")
        yield from _convert_all(self._lines(content, name), name, example)

    def _json(self, content: io.BufferedReader, name: str) -> Items:
        """Yields one example per line: a JSON value, or a field of a JSON object."""

        def example(line: bytes) -> Array | None:
            return self.input.from_json(self._value(line)) if line.strip() else None

        yield from _convert_all(self._lines(content, name), name, example)

    def _value(self, line: bytes) -> Any:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"not JSON: {error}") from None
        field = self.column or (_DEFAULT_COLUMN if self.input.kind == "text" else None)
        if field is None or not isinstance(value, dict):
            return value
        if field not in value:
            raise DataError(
                f"no field {field!r}, found {_first_names(value)}; name the field with --column"
            )
        return value[field]

    def _csv(self, content: io.BufferedReader, name: str) -> Items:
        """Yields one example per row: a text, or numbers, for which a header is optional."""
        rows = Rows(self._lines(content, name))
        first = next(rows, None)
        if first is None:
            return
        if self.input.kind == "text":
            yield from _convert_all(rows, name, self._cell_reader(first))
            return
        self._check_count(first)  # One error for the file, not one for each of its rows.
        if any(map(_is_number, first)):
            rows.push_back(first)
        yield from _convert_all(rows, name, self._numbers)

    def _cell_reader(self, header: Sequence[str]) -> Callable[[Sequence[str]], Array]:
        column = self.column or _DEFAULT_COLUMN
        if column not in header:
            raise DataError(
                f"no column {column!r} in the first row, found {_first_names(header)}; name the "
                "column with --column"
            )
        index = header.index(column)

        def example(row: Sequence[str]) -> Array:
            if len(row) <= index:
                raise DataError(f"found {len(row)} columns, expected {len(header)}")
            return self.input.from_text(row[index])

        return example

    def _numbers(self, row: Sequence[str]) -> Array:
        self._check_count(row)
        try:
            numbers = np.array(row, np.float64)
        except ValueError:
            cell = next(cell for cell in row if not _is_number(cell))
            raise DataError(f"found {cell!r}, expected {self.input.expected()}") from None
        return self.input.from_numbers(numbers.reshape(self.input.shape))

    def _check_count(self, row: Sequence[str]) -> None:
        expected = math.prod(self.input.shape)
        if len(row) != expected:
            hint = "; remove the first column with cut -d, -f2-" if len(row) == expected + 1 else ""
            raise DataError(
                f"found {len(row)} columns, expected {expected}, {self.input.expected()}{hint}"
            )

    def _array(self, content: io.BufferedReader, name: str) -> Items:
        """Yields the examples of an array (N, ...), IDX or .npy, gzipped or not."""
        try:
            stream = idx.unzip(content)
            header = (
                npz.read_npy_header if stream.peek(6).startswith(_NPY_MAGIC) else idx.read_header
            )
            shape, dtype = header(stream, Location(name))
            zeros = _example_of_zeros(shape, dtype)
            self.input.from_numbers(zeros)  # One error for the file, not one for each example.
            for number in range(1, shape[0] + 1):
                values = stream.read(zeros.size * dtype.itemsize)
                if len(values) < zeros.size * dtype.itemsize:
                    raise DataError(f"found {number - 1} examples, expected {shape[0]}")
                example = np.frombuffer(values, dtype).reshape(zeros.shape)
                yield from _convert(f"{name}:{number}", self.input.from_numbers, example)
            if stream.read(1):
                raise DataError(f"found more than the {shape[0]} examples of the header")
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"damaged or truncated gzip: {error}") from None

    def _lines(self, content: io.BufferedReader, name: str) -> Lines:
        max_bytes = _MAX_TEXT_BYTES
        if self.input.kind != "text":
            max_bytes += _MAX_VALUE_BYTES * math.prod(self.input.shape)
        return Lines(content, max_bytes=max_bytes, live=name == STDIN)


def _convert_all(source: Lines | Rows, name: str, to_example: ToExample) -> Items:
    """Yields the items of all lines or rows, named by their numbers, and pauses."""
    while True:
        if source.is_idle():
            yield PAUSE
        try:
            raw = next(source, None)
        except DataError as error:
            yield _error_item(f"{name}:{source.number}", error)
            continue
        if raw is None:
            return
        yield from _convert(f"{name}:{source.number}", to_example, raw)


def _convert(name: str, to_example: ToExample, raw: Any) -> Items:
    """Yields the item of a line, row or array; nothing if it is blank."""
    try:
        example = to_example(raw)
    except DataError as error:
        yield _error_item(name, error)
    else:
        if example is not None:
            yield Item(name, example)


def _error_item(name: str, error: Exception) -> Item:
    """Returns the item of an input that could not be read.

    Raises:
        TransientStorageError: if this is the error, as it says nothing about the input.
    """
    if isinstance(error, TransientStorageError):
        raise error
    if isinstance(error, DataError):
        message = error.problem
    else:
        message = str(error).removeprefix(f"{name}: ")
    return Item(name, None, " ".join(message.split()))


@dataclass(frozen=True)
class _Stdin:
    path: str = STDIN

    def read(self, max_bytes: int) -> bytes:
        with self.open() as content:
            return content.read(max_bytes)

    @contextlib.contextmanager
    def open(self) -> Iterator[io.BufferedReader]:
        # Not sys.stdin: a thread blocked on input would hold its lock, and block the exit.
        with storage.translate_errors(self.path):
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
    """Yields the files that a path stands for; if there are none, one that raises the error."""
    try:
        yield from [_Stdin()] if path == STDIN else storage.files(path)
    except StorageError as error:
        yield _Missing(path, error)


def _suffix(path: str) -> str:
    """Returns the suffix of a name in lower case: ".png"; ".idx" for all names of IDX files."""
    return ".idx" if idx.is_idx_name(path) else os.path.splitext(path)[1].lower()


def _example_of_zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Returns zeros of an example's shape, in no memory, whatever shape a header declares."""
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


def _first_names(names: Collection[str]) -> str:
    return ", ".join(map(repr, itertools.islice(names, 5))) or "nothing"
