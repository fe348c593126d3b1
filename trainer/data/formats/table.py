"""Tables with a column of labels and columns of texts, images or numbers.

Delimited text, JSON, Parquet, Arrow and TFRecord, as `rows` reads them.
"""

from __future__ import annotations

import collections
import dataclasses
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
from trainer.data.formats import images, vertex_jsonl
from trainer.data.listing import Candidate, Listing
from trainer.data.shards.external_shuffle import Pairs, order_blocks
from trainer.data.shards.reader import rechunk
from trainer.data.shards.shard_format import Stream
from trainer.data.tables import columns as column_types
from trainer.data.tables import labels, planning, rows
from trainer.data.tables.columns import Columns
from trainer.data.tables.delimited import MAX_CHARACTERS, Row
from trainer.data.tables.image_paths import AmbiguousPathsError, ImagePaths
from trainer.data.tables.planning import Plan
from trainer.errors import DataError, Location
from trainer.runtime import memory
from trainer.runtime.log import LOGGER
from trainer.storage import Folder

NAME = (
    "CSV, TSV, JSON, Parquet, Arrow or TFRecord with a column of labels and one of texts or "
    "images, or columns of numbers, as train.csv, validation.csv and test.csv if the data is split"
)

_MAX_NAMED = 5
_BLOCK_ROWS = 1024
_ROW_GROUP_BYTES = 16 << 20  # Of texts in Parquet.


@dataclass(frozen=True)
class _Cell:
    """The content of a complete row.

    Attributes:
        location: of the row.
        value: the example: a text; numbers; or an image, as bytes, as a Path, or as a gs:// str.
        label: class name.
        split: "train", "validation" or "test".
    """

    location: Location
    value: Any
    label: str
    split: str


@dataclass
class _RowCounts:
    """Counts all rows and those left out; keeps the locations of the first of these.

    Attributes:
        max_bad: the largest fraction of rows that may be left out.
        total: number of rows.
        bad: number of them that are damaged or incomplete.
        first_bad: the first of these, with their problems.
        unlabelled: number of rows without a label, by split.
        first_unlabelled: the first of these, by split.
        labelled: the splits in which a row has a label.
    """

    max_bad: float
    total: int = 0
    bad: int = 0
    first_bad: list[str] = field(default_factory=list)
    unlabelled: collections.Counter[str] = field(default_factory=collections.Counter)
    first_unlabelled: dict[str, list[str]] = field(default_factory=dict)
    labelled: set[str] = field(default_factory=set)

    def add_bad(self, location: Location, problem: str) -> None:
        self.bad += 1
        if len(self.first_bad) < _MAX_NAMED:
            self.first_bad.append(f"{location.name}: {problem}")

    def add_unlabelled(self, location: Location, split: str) -> None:
        self.unlabelled[split] += 1
        first = self.first_unlabelled.setdefault(split, [])
        if len(first) < _MAX_NAMED:
            first.append(f"{location.name}: no label")

    def report(self) -> None:
        """Logs which rows are left out. A split without any label is left out as a whole.

        Raises:
            DataError: too many rows are left out, or the training split has no label.
        """
        total, bad, first = self.total, self.bad, list(self.first_bad)
        for split, number in self.unlabelled.items():
            if split in self.labelled or not self.labelled:
                bad += number
                first += self.first_unlabelled[split]
            elif split == "train":
                raise DataError(f"none of the {number} rows of the training split has a label")
            else:
                total -= number
                LOGGER.warning(
                    "left out the %s split: none of its %d rows has a label", split, number
                )
        if not bad:
            return
        problems = "; ".join(first[:_MAX_NAMED])
        message = f"{bad} of {total} rows without a label or an example: {problems}"
        if bad > self.max_bad * total:
            raise DataError(
                f"found {message}; expected at most {self.max_bad:g} of all (--max-bad)"
            )
        LOGGER.warning("left out %s", message)


def propose(listing: Listing, request: ReadRequest) -> Candidate | None:
    """Returns how the tables among the files would be read; None if there are none.

    The training tables decide the columns. Tables that lack them, or belong to no split where
    others do, are left out.
    """
    tables = [file for file in listing.files if planning.is_table(file, listing)]
    copies = planning.find_copies(tables)
    tables = [table for table in tables if table not in copies]
    if not tables or vertex_jsonl.recognises(tables):
        return None
    try:
        plan, left_out = planning.make_plan(tables, listing, request)
    except DataError as error:
        return Candidate(
            format=sys.modules[__name__],
            files=tuple(tables),
            # Folders that hold the images of a table are no classes.
            evidence=3 if isinstance(error, AmbiguousPathsError) else 0,
            summary="tables",
            error=error,
        )
    if plan.paths is None:
        unread = set(listing.files) - set(tables)
        left_out |= {file: "beside the tables" for file in unread} | copies
    else:
        left_out |= {
            file: "beside the tables" for file in listing.files
            if file not in tables and not images.is_image_name(file.name)
        } | copies  # fmt: skip
    kinds = {rows.inner_suffix(table).lstrip(".").upper() or "text" for table, _ in plan.tables}
    return Candidate(
        format=sys.modules[__name__],
        files=tuple(table for table, _ in plan.tables),
        evidence=2,
        summary=f"{'/'.join(sorted(kinds))} with {plan.columns.describe()}",
        left_out=left_out,
        plan=plan,
        columns=plan.columns,
    )


def read(candidate: Candidate, request: ReadRequest) -> RawSplits:
    """Reads all rows.

    Leaves out rows without a label or an example, with a warning.

    Raises:
        DataError: a table is damaged, or too many rows are left out.
        StorageError: an image that a row names cannot be read.
    """
    plan: Plan = candidate.plan
    for table, _ in plan.tables:
        memory.check_data(rows.size_in_memory(table), "a table of this size", Location(table))
    counts = _RowCounts(request.options.max_bad)
    cells = list(_cells(plan, request, counts))
    counts.report()
    names = labels.unify([cell.label for cell in cells])
    split_names = [cell.split for cell in cells]
    if plan.columns.kind == "image":
        examples, kept, layout = images.read(list(map(_image_item, cells)), request)
        raw = splits.group_by_split(examples, names, split_names, kept)
        return dataclasses.replace(raw, layout=layout)
    examples = _texts(cells) if plan.columns.kind == "text" else _numbers(cells, plan.columns)
    return splits.group_by_split(examples, names, split_names)


def stream(candidate: Candidate, request: ReadRequest) -> Stream | None:
    """Returns texts or images as a stream, with only labels and image paths in memory.

    Raises:
        DataError: as `read`; perhaps when a damaged block is read.
        StorageError: as `read`.
    """
    plan: Plan = candidate.plan
    if plan.columns.kind == "vector":
        return None
    counts = _RowCounts(request.options.max_bad)
    names, split_names, files = [], [], []

    def cells_once() -> Iterator[_Cell]:
        for cell in _cells(plan, request, counts):
            names.append(sys.intern(cell.label))
            split_names.append(cell.split)
            if not isinstance(cell.value, bytes | str) or plan.columns.kind == "image":
                files.extend([] if isinstance(cell.value, bytes) else [cell.value])
            yield cell
        counts.report()

    layout = None
    if plan.columns.kind == "image":
        layout = images.survey(map(_image_item, cells_once()), request)
    else:
        collections.deque(cells_once(), maxlen=0)
    unified = labels.unify(names)
    if len(files) == len(names):
        return images.stream(images.file_items(files), unified, split_names, request, layout)
    classes, indices, rows_of = splits.encode_labels(unified, split_names)
    reader = None if layout is None else images.ImageReader(layout, len(names), request)
    streams = {}
    for split, at in rows_of.items():
        cells = _cells_of_split(plan, request, split_names[at[0]])
        left_out: set[int] = set()
        if reader is None:
            blocks = _text_blocks(cells)
        else:
            blocks = reader.blocks(map(_image_item, cells), left_out)
        pairs, split_labels = order_blocks(
            blocks, indices[at], shuffle=request.shuffled, left_out=left_out
        )
        streams[split] = splits.check_kept(split, pairs, split_labels, classes), split_labels
    return Stream(streams, classes, texts=layout is None, layout=layout)


def write(folder: Folder, stream: Stream) -> dict[str, int]:
    """Writes texts as Parquet with their class names, which Hugging Face's `datasets` reads too.

    Args:
        folder: destination, local or in a bucket.
        stream: the data set; no file is written there before all of it has been read.

    Returns:
        The number of examples of each split.
    """
    import pyarrow

    feature = {"names": list(stream.classes), "_type": "ClassLabel"}
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": feature}
    schema = pyarrow.schema(
        {"text": pyarrow.string(), "label": pyarrow.int64()},
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    with storage.temporary_directory() as temporary:
        sizes = {
            name: _write_parquet(temporary / f"{name}.parquet", pairs, schema)
            for name, (pairs, _) in stream.splits.items()
        }
        for name in sizes:
            folder.write(f"{name}.parquet", temporary / f"{name}.parquet")
    return sizes


def _write_parquet(path: Path, pairs: Pairs, schema: Any) -> int:
    """Writes the texts of a split, and returns their number."""
    import pyarrow
    from pyarrow import parquet

    written = 0
    labels: list[Array] = []

    def texts() -> Iterator[Array]:
        for block, block_labels in pairs:
            labels.append(block_labels)
            yield block

    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for block in rechunk(texts(), _ROW_GROUP_BYTES):
            block_labels = np.concatenate(labels)[written : written + len(block)]
            writer.write_table(pyarrow.table({"text": block, "label": block_labels}, schema))
            written += len(block)
    return written


def _cells(plan: Plan, request: ReadRequest, counts: _RowCounts) -> Iterator[_Cell]:
    """Yields the content of each complete row; counts all rows."""
    for table, table_split in plan.tables:
        for row in rows.read(table, request.options, plan.columns.needed):
            counts.total += 1
            try:
                cell = _cell(row, plan, table_split or "train")
            except _MissingLabelError as missing:
                counts.add_unlabelled(row.location, missing.split)
            except DataError as error:
                counts.add_bad(row.location, error.problem)
            else:
                counts.labelled.add(cell.split)
                yield cell


def _cells_of_split(plan: Plan, request: ReadRequest, split: str) -> Iterator[_Cell]:
    """Yields the complete rows of one split again, without counting them."""
    tables = tuple(
        (table, table_split) for table, table_split in plan.tables
        if plan.columns.split is not None or (table_split or "train") == split
    )  # fmt: skip
    for cell in _cells(dataclasses.replace(plan, tables=tables), request, _RowCounts(1.0)):
        if cell.split == split:
            yield cell


class _MissingLabelError(Exception):
    """A row has no label."""

    def __init__(self, split: str) -> None:
        self.split = split


def _cell(row: Row, plan: Plan, split: str) -> _Cell:
    """Returns the content of a row.

    Raises:
        DataError: it is damaged or incomplete.
        _MissingLabelError: it has no label.
    """
    columns, cells = plan.columns, row.cells
    if row.problem:
        raise DataError(row.problem)
    if columns.split is not None:
        split = _split(columns.split, cells.get(columns.split))
    label = ""
    if columns.label is not None:
        label = labels.to_name(cells.get(columns.label), one_hot=plan.labels.one_hot)
    if not label or label in plan.labels.unlabelled:
        raise _MissingLabelError(split)
    values = [cells.get(name) for name in columns.inputs]
    if any(map(column_types.is_missing, values)):
        name = next(name for name in columns.inputs if column_types.is_missing(cells.get(name)))
        raise DataError(f"nothing in column {name!r}")
    if columns.kind == "vector":
        return _Cell(row.location, to_vector(values), label, split)
    (value,) = values
    if columns.kind == "image":
        return _Cell(row.location, to_image(value, plan.paths, row.location), label, split)
    return _Cell(row.location, to_text(value), label, split)


def _split(column: str, value: Any) -> str:
    text = str(value)
    split = column_types.split_of(column, text)
    if split is None:
        raise DataError(f"found {text[:40]!r} in column {column!r}, expected the name of a split")
    return split


def to_vector(values: Sequence[Any]) -> list[float]:
    """Returns numbers from the cells of a row, or from one cell with a list of numbers.

    Raises:
        DataError: a cell is no number.
    """
    if len(values) == 1 and column_types.to_number(values[0]) is None:
        (value,) = values
        numbers = column_types.numbers_in(value) if isinstance(value, str) else value
        values = numbers if isinstance(numbers, list) else []
    vector = [number for value in values if (number := column_types.to_number(value)) is not None]
    if not vector or len(vector) < len(values):
        raise DataError("found a value that is not a number")
    return vector


def _numbers(cells: Sequence[_Cell], columns: Columns) -> Array:
    """Returns vectors or pixels: uint8 if all are whole numbers of 0 to 255, else float32."""
    size = len(cells[0].value) if cells else 0
    for cell in cells:
        if len(cell.value) != size:
            raise DataError(f"found {len(cell.value)} numbers, expected {size}", cell.location)
    blocks = [
        _smallest(np.array([cell.value for cell in cells[start : start + _BLOCK_ROWS]]))
        for start in range(0, len(cells), _BLOCK_ROWS)
    ]
    vectors = np.concatenate(blocks)
    return vectors if columns.shape is None else vectors.reshape(-1, *columns.shape)


def _smallest(block: Array) -> Array:
    whole = (block >= 0) & (block <= 255) & (block == np.floor(block))
    with np.errstate(over="ignore"):
        return block.astype(np.uint8 if whole.all() else np.float32)


def to_text(value: Any) -> str:
    """Returns the text of a cell, without surrounding whitespace.

    Raises:
        DataError: it is no text, or too long.
    """
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8: {error}") from None
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if problem := checks.text_error(value):
        raise DataError(problem)
    if len(value) > MAX_CHARACTERS:
        raise DataError(f"found {len(value)} characters, expected a text of up to {MAX_CHARACTERS}")
    return str(value).strip()


def _text_blocks(cells: Iterable[_Cell]) -> Iterator[Array]:
    remaining = iter(cells)
    while block := list(itertools.islice(remaining, _BLOCK_ROWS)):
        yield _texts(block)


def _texts(cells: Sequence[_Cell]) -> Array:
    texts = np.empty(len(cells), dtype=object)
    texts[:] = [cell.value for cell in cells]
    return texts


def to_image(value: Any, paths: ImagePaths | None, location: Location) -> bytes | Path | str:
    """Returns the content or the place of the image in a cell."""
    if isinstance(value, dict):  # Hugging Face's images: {"bytes": ..., "path": ...}.
        value = value.get("bytes") or value.get("path") or b""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise DataError(f"found {type(value).__name__}, expected the path of an image")
    if paths is None:
        raise DataError("found the path of an image, expected its content")
    return paths.resolve(value, location)


def _image_item(cell: _Cell) -> images.Item:
    """Returns the image of a cell, and where it is: a row, or a file."""
    in_table = isinstance(cell.value, bytes)
    return (cell.location if in_table else Location(cell.value), cell.value)
