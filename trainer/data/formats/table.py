"""Tables: CSV, TSV, JSON lines, Parquet or TFRecord, with labels and one of texts or images."""

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
from trainer.data.formats.rows import MAX_CHARACTERS, listed
from trainer.data.shards.external_shuffle import in_order
from trainer.data.shards.reader import cut
from trainer.data.shards.shard_format import Stream
from trainer.errors import DataError, Location, UsageError
from trainer.runtime import memory
from trainer.runtime.log import LOGGER
from trainer.storage import Folder

NAME = (
    "CSV, TSV, JSON lines, Parquet or TFRecord with a column of labels and one of texts or of "
    "images, as train.csv, validation.csv and test.csv if the data has such parts"
)

# Column names that are plain, in lower case.
_LABELS = ("label", "labels", "image/class/label", "class", "category", "target", "sentiment", "y")
_TEXTS = ("text", "sentence", "review", "content", "comment", "message", "document")
_IMAGES = (
    "image",
    "image/encoded",
    "image_path",
    "image_file",
    "file",
    "file_name",
    "filename",
    "filepath",
    "path",
)

_MAX_MISSING = 0.1
_MAX_NAMED = 5
_TEXTS_AT_ONCE = 1024
_GROUP_BYTES = 16 << 20  # Of texts in a row group.


@dataclass(frozen=True)
class _Columns:
    label: str
    example: str
    are_images: bool


@dataclass(frozen=True)
class _Cell:
    """What a row has that lacks nothing."""

    place: Location
    value: Any
    label: str
    part: str  # "train", "validation" or "test".


@dataclass
class _LeftOut:
    """Counts rows that lack something; the first of them are named."""

    rows: int = 0
    missing: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, place: Location) -> None:
        self.missing += 1
        if len(self.named) < _MAX_NAMED:
            self.named.append(place.name)

    def tell(self) -> None:
        """Warns of them; raises DataError if they are too many."""
        if not self.missing:
            return
        some = ", ".join(self.named)
        message = f"{self.missing} of {self.rows} rows lack a label or an example: {some}"
        if self.missing > _MAX_MISSING * self.rows:
            raise DataError(f"{message}; expected at most a tenth")
        LOGGER.warning("left out: %s", message)


def recognises(files: Sequence[Path]) -> bool:
    """Tells whether there are tables, perhaps beside images, and not a managed data set's."""
    tables = list(filter(rows.is_table, files))
    others = [file for file in files if not rows.is_table(file)]
    if not tables or not all(file.suffix.lower() in images.SUFFIXES for file in others):
        return False
    return not (vertex_jsonl.recognises(tables) and vertex_jsonl.is_one(tables[0]))


def read(files: Sequence[Path], request: ReadRequest) -> RawSplits:
    """Reads all rows; files named train, validation and test make the parts.

    Rows without a label or an example are left out, which is told.

    Raises:
        DataError: a file is damaged, it is not plain which column is which, or more than a tenth
            of the rows are incomplete.
        StorageError: an image that a row names is not there, or may not be read.
    """
    tables = list(filter(rows.is_table, files))
    for table in tables:
        memory.check_data(rows.size_in_memory(table), "a table of this size", Location(table))
    columns, left_out = _columns(tables, request), _LeftOut()
    cells = list(_cells(tables, columns, left_out))
    left_out.tell()
    if columns.are_images:
        items = _items(cells, request)
        examples = images.read(items, len(cells), size=request.options.image_size)
    else:
        examples = _texts(cells)
    return splits.source(examples, [cell.label for cell in cells], [cell.part for cell in cells])


def stream(files: Sequence[Path], request: ReadRequest) -> Stream:
    """Gives texts or images some at a time; labels, and the paths of images, are in memory.

    Raises:
        DataError: as `read`; what is damaged may show when its block is asked for.
        StorageError: as `read`.
    """
    tables = list(filter(rows.is_table, files))
    columns, left_out = _columns(tables, request), _LeftOut()
    names: list[Path | str] = []
    labels, part_of, coloured = [], [], False
    for cell in _cells(tables, columns, left_out):
        labels.append(sys.intern(cell.label))
        part_of.append(cell.part)
        if columns.are_images and not isinstance(cell.value, bytes):
            names.append(_file(cell, request))
        elif columns.are_images and not coloured:
            coloured = images.has_colours(cell.value)
    left_out.tell()
    if len(names) == len(labels):
        return images.stream(names, labels, part_of, request)
    pieces = images.ImageReader(
        3 if coloured else images.channels(names), request.options.image_size
    )
    classes, numbers, rows_of = splits.class_names(labels, part_of)
    found = {}
    for name, at in rows_of.items():
        of_part = [table for table in tables if _part(table) == part_of[at[0]]]
        cells = _cells(of_part, columns, _LeftOut())
        if columns.are_images:
            blocks = pieces.blocks(_items(cells, request), len(at))
        else:
            blocks = _text_blocks(cells)
        found[name] = in_order(blocks, numbers[at], mix=request.shuffled)
    return Stream(found, classes, texts=not columns.are_images)


def write(folder: Folder, stream: Stream) -> None:
    """Writes texts as Parquet, which Hugging Face's `datasets` reads too, with their classes.

    Args:
        folder: where it goes, local or in a bucket.
        stream: the data set; its parts are put there when all of it is read.
    """
    import pyarrow

    feature = {"names": list(stream.classes), "_type": "ClassLabel"}
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": feature}
    schema = pyarrow.schema(
        {"text": pyarrow.string(), "label": pyarrow.int64()},
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    with storage.temporary_directory() as temporary_directory:
        files = {f"{name}.parquet": part for name, part in stream.parts.items()}
        for name, (blocks, labels) in files.items():
            _write(temporary_directory / name, blocks, labels, schema)
        for name in files:
            folder.write(name, temporary_directory / name)


def _write(path: Path, blocks: Iterable[Array], labels: Array, schema: Any) -> None:
    import pyarrow
    from pyarrow import parquet

    written = 0
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for block in cut(blocks, _GROUP_BYTES):
            some = labels[written : written + len(block)]
            writer.write_table(pyarrow.table({"text": block, "label": some}, schema))
            written += len(block)


def _part(table: Path) -> str:
    return splits.of_file(table.name) or "train"


def _cells(tables: Iterable[Path], columns: _Columns, left_out: _LeftOut) -> Iterator[_Cell]:
    """Gives what each row has; those that lack something are counted."""
    for table in tables:
        part = _part(table)
        for place, row in rows.read(table, (columns.label, columns.example)):
            label, value = _label(row.get(columns.label)), row.get(columns.example)
            if isinstance(value, dict):  # Hugging Face's, of a file's content beside its path.
                value = value.get("bytes")
            left_out.rows += 1
            if label and not _is_missing(value):
                yield _Cell(place, value, label, part)
            else:
                left_out.add(place)


def _columns(tables: Sequence[Path], request: ReadRequest) -> _Columns:
    """Finds out by the first row which columns hold labels and examples."""
    place, first = next(itertools.chain.from_iterable(map(rows.read, tables)), (None, {}))
    if place is None:
        raise DataError("no rows", Location(tables[0]))
    table = Location(place.file)
    label = _column(table, first, request.options.label_column, _LABELS, "--label-column")
    if request.options.text_column and request.options.image_column:
        raise UsageError("--text-column and --image-column: expected one of them")
    if request.options.text_column:
        text = _column(table, first, request.options.text_column, (), "--text-column")
        return _Columns(label, text, are_images=False)
    if request.options.image_column:
        image = _column(table, first, request.options.image_column, (), "--image-column")
        return _Columns(label, image, are_images=True)
    others = [name for name in first if name != label]
    plain = [name for name in others if name.lower() in _TEXTS + _IMAGES]
    chosen = others if len(others) == 1 else plain
    if len(chosen) != 1:
        raise DataError(
            f"found the columns {listed(first)}; --text-column or --image-column says which one "
            "holds the examples",
            table,
        )
    value = first[chosen[0]]
    is_file = isinstance(value, str) and value.lower().endswith(images.SUFFIXES)
    is_content = isinstance(value, bytes) and chosen[0].lower() not in _TEXTS
    are_images = is_file or is_content or isinstance(value, dict)
    return _Columns(label, chosen[0], are_images)


def _column(
    table: Location, first: dict[str, Any], name: str | None, usual: Sequence[str], flag: str
) -> str:
    if name is not None:
        if name not in first:
            raise DataError(f"no column {name!r} for {flag}, found {listed(first)}", table)
        return name
    plain = [column for column in first if column.lower() in usual]
    if len(plain) != 1:
        raise DataError(
            f"found the columns {listed(first)}; {flag} says which one holds the labels, if the "
            "first line is a header",
            table,
        )
    return plain[0]


def _label(value: Any) -> str:
    """Returns the name of a class; "" if there is none."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():  # Whole numbers beside missing ones.
        value = int(value)
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return str(value).strip()


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _text_blocks(cells: Iterator[_Cell]) -> Iterator[Array]:
    while some := list(itertools.islice(cells, _TEXTS_AT_ONCE)):
        yield _texts(some)


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
            raise DataError(f"not UTF-8: {error}", cell.place) from None
    if fault := checks.text_error(value):
        raise DataError(fault, cell.place)
    if len(value) > MAX_CHARACTERS:
        raise DataError(
            f"found {len(value)} characters, expected a text of up to {MAX_CHARACTERS}", cell.place
        )
    return str(value).strip()


def _items(cells: Iterable[_Cell], request: ReadRequest) -> Iterator[images.Item]:
    """Gives images, of which several are read at a time where they are files of their own."""
    for within, some in itertools.groupby(cells, lambda cell: isinstance(cell.value, bytes)):
        if within:
            yield from ((cell.place, cell.value) for cell in some)
        else:
            yield from images.of_files(_file(cell, request) for cell in some)


def _file(cell: _Cell, request: ReadRequest) -> Path | str:
    """Returns where the image lies that a row names."""
    place, value = cell.place, cell.value
    if not isinstance(value, str):
        raise DataError(f"found {type(value).__name__}, expected the path of an image", place)
    if storage.is_remote(value):
        return value
    # A table from elsewhere is not to read any file of this machine.
    if request.remote and (value.startswith("/") or ".." in value.split("/")):
        raise DataError(f"{value}: expected gs://bucket/path, or a path below the data", place)
    if storage.is_remote(request.root):
        return f"{request.root}/{value}"
    return Path(request.root, value)
