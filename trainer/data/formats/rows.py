"""Reads tables row by row: CSV, TSV, JSON lines, Parquet and TFRecord.

The columns of a TFRecord are the features of its `tf.train.Example`s. Only a small part of a file
is in memory at a time.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from trainer.data.formats.images import SUFFIXES
from trainer.errors import DataError, Location
from trainer.runtime import imports

# Location of a row, and its cells by column.
Row = tuple[Location, dict[str, Any]]

MAX_CHARACTERS = 1_000_000  # Of a cell.
_MAX_LINE_CHARACTERS = 16 * MAX_CHARACTERS
_PATH_SUFFIXES = tuple(suffix.encode() for suffix in SUFFIXES)
_BUFFER_BYTES = 1 << 20
_PARQUET_BATCH_ROWS = 64  # Small, because rows may be images.


def is_table(file: Path) -> bool:
    """Returns whether a file is a table, by its name."""
    return _suffix(file) in _READERS


def read(file: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Yields the rows of a table.

    Args:
        file: the table.
        columns: columns that are needed; rows may have others too. None for all.

    Raises:
        DataError: the table is damaged.
    """
    yield from _READERS[_suffix(file)](file, columns)


def size_in_memory(file: Path) -> int:
    """Returns the approximate size of all rows of a table in memory, in bytes.

    Raises:
        DataError: the table is damaged.
    """
    if _suffix(file) == ".parquet":  # Compressed: the file size says nothing.
        with _parquet_file(file) as table:
            groups = map(table.metadata.row_group, range(table.num_row_groups))
            return 2 * sum(int(group.total_byte_size) for group in groups)
    # Copies as lines, cells and strings; or as records, features and examples.
    return 4 * file.stat().st_size


def read_json_lines(file: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Yields the objects of a file of JSON lines.

    Raises:
        DataError: a line is not a JSON object.
    """
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        location = Location(file, f"line {number}")
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"not JSON: {error}", location) from None
        if not isinstance(fields, dict):
            raise DataError(f"found {type(fields).__name__}, expected a JSON object", location)
        yield location, fields


def format_columns(columns: Iterable[str]) -> str:
    """Returns names of columns for a message; of many, the first ten."""
    names = list(columns)
    return ", ".join(repr(name[:40]) for name in names[:10]) + (", ..." if len(names) > 10 else "")


def _suffix(file: Path) -> str:
    """Returns the lower-case extension of a file name such as a.tfrecord-00000-of-00002."""
    return Path(re.sub(r"-\d+-of-\d+$", "", file.name)).suffix.lower()


def _lines(file: Path) -> Iterator[str]:
    """Yields the lines of a UTF-8 file, with their line ends."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            for number in itertools.count(1):
                line = lines.readline(_MAX_LINE_CHARACTERS + 1)
                if not line:
                    return
                if len(line) > _MAX_LINE_CHARACTERS:
                    problem = (
                        f"more than {_MAX_LINE_CHARACTERS} characters, expected one row per line"
                    )
                    raise DataError(problem, Location(file, f"line {number}"))
                yield line
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error}", Location(file)) from None


def _delimited(file: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    csv.field_size_limit(MAX_CHARACTERS)
    lines = _lines(file)
    head = next(lines, "")
    delimiter = "\t" if file.suffix.lower() == ".tsv" else max(",;\t", key=head.count)
    rows = csv.reader(itertools.chain([head], lines), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        if len(set(header)) < len(header):
            raise DataError(
                f"found columns of the same name: {format_columns(header)}", Location(file)
            )
        for row in rows:
            if not row:
                continue
            location = Location(file, f"line {rows.line_num}")
            if len(row) != len(header):
                expected = f"{len(header)} as in the header"
                raise DataError(f"found {len(row)} cells, expected {expected}", location)
            yield location, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise DataError(str(error), Location(file, f"line {rows.line_num}")) from None


def _parquet(file: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    with _parquet_file(file) as table:
        classes = _class_names(table.schema_arrow.metadata or {})
        number = itertools.count(1)
        for batch in table.iter_batches(_PARQUET_BATCH_ROWS, columns=columns):
            for row in batch.to_pylist():
                for column, names in classes.items():
                    row[column] = _class_name(row.get(column), names)
                yield Location(file, f"row {next(number)}"), row


@contextlib.contextmanager
def _parquet_file(file: Path) -> Iterator[Any]:
    """Yields an open Parquet file that reads ahead no more than one buffer."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False) as table:
            yield table
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).split("\n")[0]
        problem = f"not a Parquet file, or a damaged one: {reason}"
        raise DataError(problem, Location(file)) from None


def _tf_records(file: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    with imports.keras():
        import tensorflow as tf

        records = tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
    number = 0
    try:
        for number, record in enumerate(records, 1):
            example = tf.train.Example.FromString(record)
            row = {name: _value(feature) for name, feature in example.features.feature.items()}
            yield Location(file, f"record {number}"), dict(sorted(row.items()))
    except (tf.errors.OpError, DecodeError) as error:
        reason = str(getattr(error, "message", error)).split("\n")[0]
        raise DataError(
            f"not a tf.train.Example, or a damaged one: {reason}",
            Location(file, f"record {number + 1}"),
        ) from None


def _value(feature: Any) -> Any:
    """Returns the value of a feature; a list of several values; None for no value."""
    values = getattr(feature, feature.WhichOneof("kind") or "bytes_list").value
    if len(values) != 1:
        return list(values) or None
    (value,) = values
    # Features have bytes, but no text: the path of an image is recognised by its extension.
    if isinstance(value, bytes) and value.lower().endswith(_PATH_SUFFIXES):
        with contextlib.suppress(UnicodeDecodeError):
            return value.decode()
    return value


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Returns by column the class names that Hugging Face's `datasets` stores for class indices."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if feature.get("_type") == "ClassLabel"
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _class_name(value: Any, names: Sequence[str]) -> Any:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


_READERS: dict[str, Callable[[Path, Sequence[str] | None], Iterator[Row]]] = {
    ".csv": _delimited,
    ".tsv": _delimited,
    ".jsonl": read_json_lines,
    ".parquet": _parquet,
    ".tfrecord": _tf_records,
    ".tfrecords": _tf_records,
}
