"""Tables of texts or images with a column of labels: CSV, TSV, JSON lines, Parquet or TFRecord."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer import storage
from trainer.data import checks, splits
from trainer.data.dataset import Array, RawSplits, ReadRequest
from trainer.data.formats import images, rows, vertex_jsonl
from trainer.data.formats.rows import MAX_CHARACTERS, format_columns
from trainer.data.shards.external_shuffle import order_blocks
from trainer.data.shards.reader import rechunk
from trainer.data.shards.shard_format import Stream
from trainer.errors import DataError, Location, UsageError
from trainer.runtime import memory
from trainer.runtime.log import LOGGER
from trainer.storage import Folder

NAME = (
    "CSV, TSV, JSON lines, Parquet or TFRecord with a column of labels and one of texts or of "
    "images, as train.csv, validation.csv and test.csv if the data is split"
)

# Column names that are found without a flag, in lower case.
_LABEL_COLUMNS = (
    "label", "labels", "image/class/label", "class", "category", "target", "sentiment", "y",
)  # fmt: skip
_TEXT_COLUMNS = ("text", "sentence", "review", "content", "comment", "message", "document")
_IMAGE_COLUMNS = (
    "image", "image/encoded", "image_path", "image_file", "file", "file_name", "filename",
    "filepath", "path",
)  # fmt: skip

_MAX_INCOMPLETE = 0.1  # Fraction of the rows.
_MAX_NAMED = 5
_BLOCK_TEXTS = 1024
_ROW_GROUP_BYTES = 16 << 20  # Of texts in Parquet.


@dataclass(frozen=True)
class _Columns:
    label: str
    example: str
    are_images: bool


@dataclass(frozen=True)
class _Cell:
    """The content of a complete row.

    Attributes:
        location: of the row.
        value: the example: a text, the path of an image, or the bytes of either.
        label: class name.
        split: "train", "validation" or "test".
    """

    location: Location
    value: Any
    label: str
    split: str


@dataclass
class _RowCounts:
    """Counts all rows and the incomplete ones; keeps the locations of the first of these."""

    total: int = 0
    incomplete: int = 0
    first_incomplete: list[str] = field(default_factory=list)

    def add_incomplete(self, location: Location) -> None:
        self.incomplete += 1
        if len(self.first_incomplete) < _MAX_NAMED:
            self.first_incomplete.append(location.name)

    def report(self) -> None:
        """Logs a warning if rows are incomplete; raises DataError if more than a tenth are."""
        if not self.incomplete:
            return
        locations = ", ".join(self.first_incomplete)
        counts = f"{self.incomplete} of {self.total} rows"
        message = f"{counts} without a label or an example: {locations}"
        if self.incomplete > _MAX_INCOMPLETE * self.total:
            raise DataError(f"found {message}; expected at most a tenth")
        LOGGER.warning("skipped %s", message)


def recognises(files: Sequence[Path]) -> bool:
    """Returns whether there are tables, perhaps beside images, but not Vertex AI's JSON lines."""
    tables = list(filter(rows.is_table, files))
    others = [file for file in files if not rows.is_table(file)]
    if not tables or not all(file.suffix.lower() in images.SUFFIXES for file in others):
        return False
    return not (vertex_jsonl.recognises(tables) and vertex_jsonl.has_items(tables[0]))


def read(files: Sequence[Path], request: ReadRequest) -> RawSplits:
    """Reads all rows; files named train, validation and test are those splits.

    Skips rows without a label or an example, with a warning.

    Raises:
        DataError: a table is damaged, the columns of labels or examples cannot be determined, or
            more than a tenth of the rows are incomplete.
        StorageError: an image that a row names is missing or cannot be read.
    """
    tables = list(filter(rows.is_table, files))
    for table in tables:
        memory.check_data(rows.size_in_memory(table), "a table of this size", Location(table))
    columns, counts = _find_columns(tables, request), _RowCounts()
    cells = list(_cells(tables, columns, counts))
    counts.report()
    if columns.are_images:
        items = _image_items(cells, request)
        examples = images.read(items, len(cells), size=request.options.image_size)
    else:
        examples = _texts(cells)
    labels, split_names = [cell.label for cell in cells], [cell.split for cell in cells]
    return splits.group_by_split(examples, labels, split_names)


def stream(files: Sequence[Path], request: ReadRequest) -> Stream:
    """Returns texts or images as a stream, with only labels and image paths in memory.

    Raises:
        DataError: as `read`; perhaps when a damaged block is read.
        StorageError: as `read`.
    """
    tables = list(filter(rows.is_table, files))
    columns, counts = _find_columns(tables, request), _RowCounts()
    paths: list[Path | str] = []
    labels, split_names, any_colour = [], [], False
    for cell in _cells(tables, columns, counts):
        labels.append(sys.intern(cell.label))
        split_names.append(cell.split)
        if columns.are_images and not isinstance(cell.value, bytes):
            paths.append(_image_path(cell, request))
        elif columns.are_images and not any_colour:
            any_colour = images.is_colour(cell.value)
    counts.report()
    if len(paths) == len(labels):
        return images.stream(paths, labels, split_names, request)
    channels = 3 if any_colour else images.count_channels(paths)
    reader = images.ImageReader(channels, request.options.image_size)
    classes, indices, rows_of = splits.encode_labels(labels, split_names)
    streams = {}
    for split, at in rows_of.items():
        split_tables = [table for table in tables if _split(table) == split_names[at[0]]]
        cells = _cells(split_tables, columns, _RowCounts())
        if columns.are_images:
            blocks = reader.blocks(_image_items(cells, request), len(at))
        else:
            blocks = _text_blocks(cells)
        streams[split] = order_blocks(blocks, indices[at], shuffle=request.shuffled)
    return Stream(streams, classes, texts=not columns.are_images)


def write(folder: Folder, stream: Stream) -> None:
    """Writes texts as Parquet with their class names, which Hugging Face's `datasets` reads too.

    Args:
        folder: destination, local or in a bucket.
        stream: the data set; no file is written there before all of it has been read.
    """
    import pyarrow

    feature = {"names": list(stream.classes), "_type": "ClassLabel"}
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": feature}
    schema = pyarrow.schema(
        {"text": pyarrow.string(), "label": pyarrow.int64()},
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    with storage.temporary_directory() as temporary:
        files = {f"{name}.parquet": split for name, split in stream.splits.items()}
        for name, (blocks, labels) in files.items():
            _write_parquet(temporary / name, blocks, labels, schema)
        for name in files:
            folder.write(name, temporary / name)


def _write_parquet(path: Path, blocks: Iterable[Array], labels: Array, schema: Any) -> None:
    import pyarrow
    from pyarrow import parquet

    written = 0
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for block in rechunk(blocks, _ROW_GROUP_BYTES):
            block_labels = labels[written : written + len(block)]
            writer.write_table(pyarrow.table({"text": block, "label": block_labels}, schema))
            written += len(block)


def _split(table: Path) -> str:
    return splits.from_file_name(table.name) or "train"


def _cells(tables: Iterable[Path], columns: _Columns, counts: _RowCounts) -> Iterator[_Cell]:
    """Yields the content of each complete row; counts all rows."""
    for table in tables:
        split = _split(table)
        for location, row in rows.read(table, (columns.label, columns.example)):
            label, value = _class_name(row.get(columns.label)), row.get(columns.example)
            if isinstance(value, dict):  # Hugging Face's images: {"bytes": ..., "path": ...}.
                value = value.get("bytes")
            counts.total += 1
            if label and not _is_missing(value):
                yield _Cell(location, value, label, split)
            else:
                counts.add_incomplete(location)


def _find_columns(tables: Sequence[Path], request: ReadRequest) -> _Columns:
    """Returns the columns of labels and examples, from the flags, their names and the first row."""
    location, first = next(itertools.chain.from_iterable(map(rows.read, tables)), (None, {}))
    if location is None:
        raise DataError("no rows, expected a header and at least one row", Location(tables[0]))
    options, table = request.options, Location(location.file)
    label = _label_column(table, first, options.label_column)
    if options.text_column and options.image_column:
        raise UsageError("--text-column and --image-column: expected one of them")
    if options.text_column:
        _check_column(table, first, options.text_column, "--text-column")
        return _Columns(label, options.text_column, are_images=False)
    if options.image_column:
        _check_column(table, first, options.image_column, "--image-column")
        return _Columns(label, options.image_column, are_images=True)
    others = [name for name in first if name != label]
    usual = [name for name in others if name.lower() in _TEXT_COLUMNS + _IMAGE_COLUMNS]
    candidates = others if len(others) == 1 else usual
    if len(candidates) != 1:
        raise DataError(
            f"found the columns {format_columns(first)}; give the column of the examples with "
            "--text-column or --image-column",
            table,
        )
    (example,) = candidates
    return _Columns(label, example, _holds_images(example, first[example]))


def _holds_images(column: str, value: Any) -> bool:
    is_path = isinstance(value, str) and value.lower().endswith(images.SUFFIXES)
    is_content = isinstance(value, bytes) and column.lower() not in _TEXT_COLUMNS
    return is_path or is_content or isinstance(value, dict)


def _label_column(table: Location, first: dict[str, Any], name: str | None) -> str:
    if name is not None:
        _check_column(table, first, name, "--label-column")
        return name
    usual = [column for column in first if column.lower() in _LABEL_COLUMNS]
    if len(usual) != 1:
        raise DataError(
            f"found the columns {format_columns(first)}; give the column of the labels with "
            "--label-column, if the first line is a header",
            table,
        )
    return usual[0]


def _check_column(table: Location, first: dict[str, Any], name: str, flag: str) -> None:
    if name not in first:
        raise DataError(f"no column {name!r} for {flag}, found {format_columns(first)}", table)


def _class_name(value: Any) -> str:
    """Returns a label as a class name; "" for a missing label."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():  # A column of integers with missing ones.
        value = int(value)
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return str(value).strip()


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _text_blocks(cells: Iterator[_Cell]) -> Iterator[Array]:
    while block := list(itertools.islice(cells, _BLOCK_TEXTS)):
        yield _texts(block)


def _texts(cells: Sequence[_Cell]) -> Array:
    texts = np.empty(len(cells), dtype=object)
    for number, cell in enumerate(cells):
        texts[number] = _text(cell)
    return texts


def _text(cell: _Cell) -> str:
    value = cell.value
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8: {error}", cell.location) from None
    if problem := checks.text_error(value):
        raise DataError(problem, cell.location)
    if len(value) > MAX_CHARACTERS:
        raise DataError(
            f"found {len(value)} characters, expected a text of up to {MAX_CHARACTERS}",
            cell.location,
        )
    return str(value).strip()


def _image_items(cells: Iterable[_Cell], request: ReadRequest) -> Iterator[images.ImageFile]:
    """Yields the location and content of each image; reads several image files at a time."""
    for in_table, group in itertools.groupby(cells, lambda cell: isinstance(cell.value, bytes)):
        if in_table:
            yield from ((cell.location, cell.value) for cell in group)
        else:
            yield from images.read_files(_image_path(cell, request) for cell in group)


def _image_path(cell: _Cell, request: ReadRequest) -> Path | str:
    """Returns the path of the image that a row names: a Path if local, a str in a bucket."""
    location, value = cell.location, cell.value
    if not isinstance(value, str):
        raise DataError(f"found {type(value).__name__}, expected the path of an image", location)
    if storage.is_remote(value):
        return value
    # A table from elsewhere must not read local files of this machine.
    if request.remote and (value.startswith("/") or ".." in value.split("/")):
        raise DataError(
            f"{value}: expected {storage.SCHEME}bucket/path, or a path below the data", location
        )
    if storage.is_remote(request.root):
        return f"{request.root}/{value}"
    return Path(request.root, value)
