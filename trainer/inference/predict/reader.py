"""Reads examples for `trainer predict` from any number of files, in constant memory.

An input that cannot be read becomes an item with an error; reading continues with the next.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer import storage
from trainer.config import ReadOptions
from trainer.data import listing, loader
from trainer.data.dataset import Array, Source
from trainer.data.formats import idx, images, npz, sparse, text
from trainer.data.inputs import InputSignature
from trainer.data.shards import shard_format
from trainer.data.tables import columns as column_types
from trainer.data.tables import delimited, rows
from trainer.errors import DataError, Location, StorageError, UsageError
from trainer.inference.predict.items import PAUSE, Item, Items, error_item
from trainer.inference.predict.lines import Lines, Rows
from trainer.inference.predict.tables import MissingColumnError, TableReader
from trainer.runtime import memory
from trainer.runtime.log import LOGGER
from trainer.storage import File

if TYPE_CHECKING:
    from trainer.runs.finished_run import FinishedRun

STDIN = "-"
_MAX_IMAGE_BYTES = 100_000_000  # Per file; larger ones are refused unread.
_MAX_TEXT_BYTES = 4 * text.MAX_CHARACTERS  # Per line; UTF-8 takes up to 4 bytes a character.
_MAX_VALUE_BYTES = 32  # Per number in a line.
_NPY_MAGIC = b"\x93NUMPY"
_ARRAYS = (".npy", ".idx")
_ARCHIVES = (".npz", ".pickle", ".pkl")
_MAX_NAMED = 5
_LEFT_OUT_TABLES = "tables and texts beside images"

ToExample = Callable[[Any], Array | None]  # From a line, row or array; None for a blank one.


@dataclass(frozen=True)
class Reader:
    """Reads files for one model.

    Attributes:
        input: input of the model.
        source: how its training data was read; None if that is unknown.
        column: column or field that holds an example; None for those of the training data.
        allow_pickle: whether pickle files may be read.
    """

    input: InputSignature
    source: Source | None = None
    column: str | None = None
    allow_pickle: bool = False
    _tables: TableReader = field(init=False, repr=False)

    def __post_init__(self) -> None:
        columns = None if self.source is None else self.source.columns
        options = ReadOptions(
            encoding=None if self.source is None else self.source.encoding,
            allow_pickle=self.allow_pickle,
        )
        tables = TableReader(self.input, columns, self.column, options)
        object.__setattr__(self, "_tables", tables)

    @classmethod
    def of(
        cls, run: FinishedRun, *, column: str | None = None, allow_pickle: bool = False
    ) -> Reader:
        """Returns a reader for the model of a run, which reads as its training did."""
        return cls(run.input, run.source, column, allow_pickle)

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
        inputs = itertools.chain.from_iterable(map(self._inputs, paths))
        for is_image, group in itertools.groupby(inputs, self._is_one_image):
            if is_image:
                yield from storage.concurrent_map(self._image, group)
            else:
                yield from itertools.chain.from_iterable(map(self._input_items, group))

    def _mismatch(self, path: str) -> str | None:
        """Returns why a file cannot be for this model, by its suffix; None if it can be."""
        suffix, content = _suffix(path), ""
        if self.input.kind != "image" and suffix in images.SUFFIXES:
            content = "an image"
        if self.input.kind != "text" and suffix == ".txt" and not self._reads_tables:
            content = "texts"
        if self.input.kind == "text" and suffix in (*_ARRAYS, ".npz"):
            content = "numbers"
        if content:
            return f"found {content}, expected {self.input.expected()}"
        if self.column is not None and suffix in (*images.SUFFIXES, *_ARRAYS, *_ARCHIVES):
            return self._no_table()
        return None

    @property
    def _reads_tables(self) -> bool:
        """Whether the model was trained on tables, or the user names a column."""
        return self._tables.columns is not None or self.column is not None

    def _no_table(self) -> str:
        return f"found no table, expected one with the column {self.column!r} of --column"

    def _inputs(self, path: str) -> Iterator[File | _Tables | _Pickles]:
        """Yields what is read for a path: files one by one, or the tables of a folder together.

        Files of a folder that are no examples are left out, as in training, and logged.
        """
        if path == STDIN:
            yield _Stdin()
            return
        try:
            files = iter(storage.files(path))
            first = next(files)
        except StorageError as error:
            yield _Missing(path, error)
            return
        files = itertools.chain([first], files)
        try:
            if not _is_collection(path, first):
                yield from files
            elif self.source is not None and self.source.format == "pickle":
                yield _Pickles(path)
            elif self._reads_tables:
                listed = list(files)
                if any(self._is_table(Path(file.path)) for file in listed):
                    yield _Tables(path, listed)
                else:
                    yield from self._without_others(path, iter(listed))
            else:
                yield from self._without_others(path, files)
        except StorageError as error:
            yield _Missing(path, error)

    def _without_others(self, path: str, files: Iterator[File]) -> Iterator[File]:
        """Yields the files of a folder that may be examples; logs the others.

        If there are none, yields one that raises the error.
        """
        left_out: dict[str, list[str]] = {}
        waiting: list[File] = []
        # Tables and texts beside images in class folders describe the images.
        images_only = (
            self.source is not None
            and self.source.format == "class_folders"
            and self.input.kind == "image"
        )
        any_example = False
        for file in files:
            name = Path(file.path)
            if reason := self._no_example(file, name):
                left_out.setdefault(reason, []).append(name.name)
            elif images_only and (rows.has_table_name(name) or name.suffix.lower() == ".txt"):
                waiting.append(file)
            else:
                any_example = True
                yield file
        if any_example and waiting:
            left_out[_LEFT_OUT_TABLES] = [Path(file.path).name for file in waiting]
        else:
            yield from waiting
        _log_left_out(left_out)
        if not any_example and not waiting:
            yield _Missing(path, StorageError(f"{path}: no examples there"))

    def _no_example(self, file: File, name: Path) -> str:
        """Returns why a file of a folder is no example; "" if it may be one."""
        if listing.is_note(name.name):
            return "notes"
        if name.name.lower() in listing.SYSTEM_FILES:
            return "system files"
        if self.input.kind == "text":
            is_class_file = self.source is not None and self.source.format == "text"
            return "no texts by their names" if is_class_file and text.is_list(name.name) else ""
        if name.name == shard_format.INDEX:
            return "index of shards"
        if _suffix(file.path) in _ARRAYS and _is_array_of_labels(file):
            return "labels"
        return ""

    def _is_table(self, path: Path) -> bool:
        """Returns whether a file is read as a table; a .txt only if the training data was one."""
        if rows.has_table_name(path):
            return True
        text_name = rows.inner_suffix(path) in rows.TEXT_SUFFIXES
        return self._reads_tables and text_name and path.is_file() and rows.is_table(path)

    def _is_one_image(self, file: File | _Tables | _Pickles) -> bool:
        if self.input.kind != "image" or isinstance(file, _Tables | _Pickles | _Stdin):
            return False
        name = Path(file.path)
        several = _suffix(file.path) in (*_ARRAYS, *_ARCHIVES) or rows.has_table_name(name)
        return not several and rows.inner_suffix(name) not in rows.TEXT_SUFFIXES

    def _image(self, file: File | _Tables | _Pickles) -> Item:
        try:
            if isinstance(file, _Tables | _Pickles) or self.column is not None:
                raise DataError(self._no_table())
            content = file.read(_MAX_IMAGE_BYTES)
            return Item(file.path, self.input.from_image(content, Location(file.path)))
        except (DataError, StorageError) as error:
            return error_item(file.path, error)

    def _input_items(self, file: File | _Tables | _Pickles) -> Items:
        try:
            if isinstance(file, _Tables):
                yield from self._folder_of_tables(file)
                return
            if isinstance(file, _Pickles):
                yield from self._pickle(file.path, file.path)
                return
            mismatch = self._mismatch(file.path)
            if mismatch:
                raise DataError(mismatch)
            if file.path == STDIN:
                yield PAUSE
                with file.open() as content:
                    yield from self._choose_format(content)(content, STDIN)
            else:
                with _local_file(file) as local:
                    yield from self._local_items(local, file.path)
        except (DataError, StorageError) as error:
            yield error_item(file.path, error)

    def _folder_of_tables(self, folder: _Tables) -> Items:
        """Yields the rows of the tables of a folder that have the columns; logs other files."""
        remote = storage.is_remote(folder.path)
        with storage.local_copy(folder.path) as local:
            is_folder = local.is_dir()
            around = folder.path.rstrip("/") if is_folder else folder.path.rpartition("/")[0]
            files = listing.list_files(local, around if remote else "")
            opened: list[tuple[str, Items]] = []
            failed: list[tuple[str, DataError]] = []
            others: list[Path] = []

            def original(path: Path) -> str:
                top = local if is_folder else local.parent
                return f"{around}/{path.relative_to(top).as_posix()}" if remote else str(path)

            for path in files.files:
                if not self._is_table(path):
                    others.append(path)
                    continue
                name = original(path)
                try:
                    opened.append((name, self._tables.open(path, name, files, remote=remote)))
                except DataError as error:
                    failed.append((name, error))
            left_out = {"not in a table": [path.name for path in others]} if opened else {}
            for name, failure in failed:
                # As in training: JSON beside tables describes them.
                no_table = isinstance(failure, MissingColumnError) or name.endswith(".json")
                if opened and no_table:
                    left_out.setdefault(failure.problem, []).append(name)
                else:
                    yield error_item(name, failure)
            for _, items in opened:
                yield from items
            if not opened:
                names = {original(path) for path in others}
                rest = (file for file in folder.files if file.path in names)
                for file in self._without_others(folder.path, rest):
                    if self._is_one_image(file):
                        yield self._image(file)
                    else:
                        yield from self._input_items(file)
            elif self.input.kind == "image":
                left_out.pop("not in a table")  # The images that the rows name.
            _log_left_out(left_out)

    def _local_items(self, local: Path, name: str) -> Items:
        """Yields the items of a file on this machine, whose path for the user is `name`."""
        suffix = _suffix(name)
        if self._is_table(local):
            remote = storage.is_remote(name)
            around = name.rpartition("/")[0] if remote else ""
            files = listing.list_files(local, around)
            yield from self._tables.open(local, name, files, remote=remote)
            return
        if self.column is not None:
            raise DataError(self._no_table())
        if suffix == ".npz":
            yield from self._archive(local, name)
        elif suffix in _ARCHIVES:
            yield from self._pickle(str(local), name)
        elif self.input.kind == "text" and self.source is not None and self.source.whole_files:
            yield from self._whole_text(local, name)
        elif self.input.kind == "text":
            with self._open_text(local) as content:
                yield from self._text(content, name)
        elif self.input.kind == "vector" and suffix not in _ARRAYS:
            raise DataError(
                f"found {suffix or 'no suffix'}, expected a table, {', '.join(_ARRAYS)} or .npz"
            )
        else:
            with local.open("rb") as content:
                yield from self._array(content, name)

    @contextlib.contextmanager
    def _open_text(self, local: Path) -> Iterator[Any]:
        """Yields a stream of UTF-8, whatever the encoding of a file is."""
        with delimited.open_binary(local) as content:
            head = content.read(1 << 16)
        encoding = self._tables.options.encoding
        try:
            if encoding is None or delimited.is_unicode(local):
                encoding = delimited.find_encoding(local)
        except DataError:
            if b"\0" not in head:
                raise
            encoding = "binary"
        # One error for the file, not one for each of its lines.
        if b"\0" in head and not encoding.lower().startswith(("utf-16", "utf-32", "utf16")):
            raise DataError("found NUL characters, expected text; is it binary?")
        if encoding.startswith("utf-8"):
            with delimited.open_binary(local) as content:
                yield content
            return
        memory.check_data(4 * local.stat().st_size, "a text file of this size", Location(local))
        with delimited.open_binary(local) as content:
            decoded = content.read().decode(encoding, errors="replace")
        yield io.BufferedReader(io.BytesIO(decoded.encode()))

    def _whole_text(self, local: Path, name: str) -> Items:
        """Yields a file as one text, as in training."""
        with self._open_text(local) as content:
            yield from _convert(
                name,
                lambda data: self.input.from_text(text.decode_line(data)),
                content.read().removeprefix(b"\xef\xbb\xbf"),
            )

    def _archive(self, local: Path, name: str) -> Items:
        """Yields the examples of an .npz: of its splits as in training, or of arrays that fit."""
        names = npz.array_names(local)
        if {"format", "shape", "data"} <= names:
            yield from self._examples(sparse.read_examples(local), name)
            return
        try:
            raw = loader.read(str(local), self._tables.options, needs_training=False)
        except DataError:
            fitting = [each for each in sorted(names) if self._fits(local, each)]
            if not fitting:
                raise
            for each in fitting:
                yield from self._examples(npz.read_array(local, each), f"{name}:{each}")
            return
        yield from self._splits(raw, name)

    def _fits(self, local: Path, name: str) -> bool:
        try:
            self.input.from_batch(npz.read_array(local, name)[:1])
        except DataError:
            return False
        return True

    def _pickle(self, path: str, name: str) -> Items:
        raw = loader.read(path, self._tables.options, needs_training=False)
        yield from self._splits(raw, name)

    def _splits(self, raw: Any, name: str) -> Items:
        for split in ("train", "validation", "test"):
            examples = getattr(raw, split)
            if examples is not None:
                yield from self._examples(examples[0], f"{name}:{split}")

    def _examples(self, examples: Any, name: str) -> Items:
        """Yields the examples of an array (N, ...), named by their numbers."""
        for number, example in enumerate(examples, 1):
            yield from _convert(f"{name}:{number}", self.input.from_numbers, np.asarray(example))

    def _choose_format(
        self, content: io.BufferedReader
    ) -> Callable[[io.BufferedReader, str], Items]:
        """Returns the method that reads stdin, by its first bytes."""
        text_model, start = self.input.kind == "text", content.peek(1)
        if text_model and self.column is None:
            return self._text
        if start.lstrip()[:1] in (b"[", b"{"):
            return self._json
        if text_model or (b"\0" not in start and (start or self.input.kind == "vector")):
            return self._csv
        if not start.startswith((b"\0\0", b"\x1f\x8b", _NPY_MAGIC)):
            return self._one_image
        return self._array

    def _one_image(self, content: io.BufferedReader, name: str) -> Items:
        yield Item(name, self.input.from_image(content.read(_MAX_IMAGE_BYTES), Location(name)))

    def _text(self, content: io.BufferedReader, name: str) -> Items:
        """Yields one text per line, read as in a data set of texts; blank lines are skipped."""

        def example(line: bytes) -> Array | None:
            stripped = text.decode_line(line)
            return self.input.from_text(stripped) if stripped else None

        if name == STDIN and b"\0" in content.peek(1):
            raise DataError("found NUL characters, expected UTF-8 text; is it UTF-16 or binary?")
        yield from _convert_all(self._lines(content, name), name, example)

    def _json(self, content: io.BufferedReader, name: str) -> Items:
        """Yields one example per line of JSON: a value, or a field of an object."""

        def example(line: bytes) -> Array | None:
            if not line.strip():
                return None
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"not JSON: {error}") from None
            return self._tables.from_json(value, Location(name))

        yield from _convert_all(self._lines(content, name), name, example)

    def _csv(self, content: io.BufferedReader, name: str) -> Items:
        """Yields one example per row of delimited text."""
        delimiter = self._delimiter(content.peek(1))
        source = Rows(self._lines(content, name), delimiter=delimiter)
        first = next(source, None)
        if first is None:
            return
        selection = self._tables.select(first)
        count = len(first)
        if not selection.has_header:
            source.push_back(first)

        def example(row: Sequence[str]) -> Array:
            if len(row) != count:
                raise DataError(f"found {len(row)} cells, expected {count} as in the first row")
            cells = [row[position] for position in selection.positions]
            if any(map(column_types.is_missing, cells)):
                raise DataError("nothing in the column of the example")
            return self._tables.example(cells)

        yield from _convert_all(source, name, example)

    def _delimiter(self, start: bytes) -> str:
        """Returns the delimiter with which the first line has the columns; a comma if none has."""
        line = start.split(b"\n")[0].decode(errors="replace").lstrip("\ufeff")
        for delimiter in delimited.DELIMITERS:
            cells = next(csv.reader([line], delimiter=delimiter), [])
            with contextlib.suppress(DataError):
                self._tables.select(cells)
                if len(cells) > 1 or delimiter not in line:
                    return delimiter
        return ","

    def _array(self, content: io.BufferedReader, name: str) -> Items:
        """Yields the examples of an array (N, ...), IDX or .npy, gzipped or not."""
        try:
            stream, (shape, dtype) = _array_header(content, name)
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
            yield error_item(f"{name}:{source.number}", error)
            continue
        if raw is None:
            return
        yield from _convert(f"{name}:{source.number}", to_example, raw)


def _convert(name: str, to_example: ToExample, raw: Any) -> Items:
    """Yields the item of a line, row or array; nothing if it is blank."""
    try:
        example = to_example(raw)
    except DataError as error:
        yield error_item(name, error)
    else:
        if example is not None:
            yield Item(name, example)


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


@dataclass(frozen=True)
class _Tables:
    """A folder, prefix or pattern with tables, and all of its files."""

    path: str
    files: Sequence[File] = field(repr=False)


@dataclass(frozen=True)
class _Pickles:
    """A folder with pickle files, which belong together."""

    path: str


def _is_collection(path: str, first: File) -> bool:
    """Returns whether a path denotes the files of a folder or pattern, and not one file."""
    if storage.is_remote(path):
        return first.path != path
    return os.path.isdir(path) or (storage.is_pattern(path) and not os.path.exists(path))


@contextlib.contextmanager
def _local_file(file: File) -> Iterator[Path]:
    """Yields the path of a file on this machine; an object is copied, under its own name."""
    if not storage.is_remote(file.path):
        with file.open():  # Raises for a folder or a pipe.
            pass
        yield Path(file.path)
        return
    with storage.temporary_directory() as temporary:
        target = temporary / Path(file.path).name
        with file.open() as content, target.open("wb") as copy:
            shutil.copyfileobj(content, copy)
        yield target


def _is_array_of_labels(file: File) -> bool:
    """Returns whether an array has one number per example, by its header."""
    try:
        with file.open() as content:
            shape, _ = _array_header(content, file.path)[1]
    except (DataError, StorageError, OSError, EOFError, zlib.error):
        return False
    return len(shape) == 1


def _log_left_out(left_out: dict[str, list[str]]) -> None:
    for reason, names in left_out.items():
        if names:
            shown = ", ".join(names[:_MAX_NAMED])
            more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
            LOGGER.warning("left out %s%s: %s", shown, more, reason)


def _array_header(
    content: io.BufferedReader, name: str
) -> tuple[idx.Unzipped, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Returns a stream at the first value of an array, and the array's shape and dtype."""
    stream = idx.unzip(content)
    header = npz.read_npy_header if stream.peek(6).startswith(_NPY_MAGIC) else idx.read_header
    return stream, header(stream, Location(name))


def _suffix(path: str) -> str:
    """Returns the suffix of a name in lower case: ".png"; ".idx" for all names of IDX files."""
    return ".idx" if idx.is_idx_name(path) else os.path.splitext(path)[1].lower()


def _example_of_zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Returns zeros of an example's shape, in no memory, whatever shape a header declares."""
    try:
        return np.broadcast_to(np.zeros((), dtype), shape[1:])
    except ValueError as error:
        raise DataError(f"an array of {shape[:5]} examples: {error}") from None
