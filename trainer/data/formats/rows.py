"""What tables hold, row by row: CSV, TSV, JSON lines, Parquet and TFRecord.

A column of TFRecord is a feature of its `tf.train.Example`s.
Little of a file is in memory at a time.
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

# Where a row is, and its cells by the names of their columns.
Row = tuple[Location, dict[str, Any]]

MAX_CHARACTERS = 1_000_000  # Of a cell.
_MAX_IN_LINE = 16 * MAX_CHARACTERS
_PATH_ENDS = tuple(suffix.encode() for suffix in SUFFIXES)
_BUFFER_BYTES = 1 << 20
_ROWS_AT_ONCE = 64  # Of Parquet; they may be images.


def is_table(file: Path) -> bool:
    """Tells whether a file is a table, by its name."""
    return _kind(file) in _READERS


def read(file: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Gives the rows of a table.

    Args:
        file: the table.
        columns: that are wanted; others may be there too. None for all.

    Raises:
        DataError: it is damaged.
    """
    yield from _READERS[_kind(file)](file, columns)


def size_in_memory(file: Path) -> int:
    """Returns about how many bytes all rows of a table take.

    Raises:
        DataError: it is damaged.
    """
    if _kind(file) == ".parquet":  # Which is compressed.
        with _parquet_file(file) as table:
            groups = (table.metadata.row_group(at) for at in range(table.num_row_groups))
            return 2 * sum(int(group.total_byte_size) for group in groups)
    return 4 * file.stat().st_size  # Lines, cells, strings; or records, features, examples.


def objects(file: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Gives the objects of a file of JSON lines.

    Raises:
        DataError: a line is no JSON object.
    """
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        place = Location(file, f"line {number}")
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"not JSON: {error}", place) from None
        if not isinstance(fields, dict):
            raise DataError(f"found {type(fields).__name__}, expected a JSON object", place)
        yield place, fields


def listed(columns: Iterable[str]) -> str:
    """Returns names of columns for a message, of many the first ones."""
    names = list(columns)
    return ", ".join(repr(name[:40]) for name in names[:10]) + (", ..." if len(names) > 10 else "")


def _kind(file: Path) -> str:
    """Returns the end of a file's name, without a number of shards behind it, in lower case."""
    return Path(re.sub(r"-\d+-of-\d+$", "", file.name)).suffix.lower()


def _lines(file: Path) -> Iterator[str]:
    """Gives the lines of a UTF-8 file, with their ends."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            for number in itertools.count(1):
                line = lines.readline(_MAX_IN_LINE + 1)
                if not line:
                    return
                if len(line) > _MAX_IN_LINE:
                    found = f"more than {_MAX_IN_LINE} characters, expected one row a line"
                    raise DataError(found, Location(file, f"line {number}"))
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
            raise DataError(f"columns of the same name: {listed(header)}", Location(file))
        for row in rows:
            if not row:
                continue
            place = Location(file, f"line {rows.line_num}")
            if len(row) != len(header):
                expected = f"{len(header)} as in the header"
                raise DataError(f"found {len(row)} cells, expected {expected}", place)
            yield place, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise DataError(str(error), Location(file, f"line {rows.line_num}")) from None


def _parquet(file: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    with _parquet_file(file) as table:
        classes = _class_names(table.schema_arrow.metadata or {})
        number = itertools.count(1)
        for batch in table.iter_batches(_ROWS_AT_ONCE, columns=columns):
            for row in batch.to_pylist():
                for column, named in classes.items():
                    row[column] = _named(row.get(column), named)
                yield Location(file, f"row {next(number)}"), row


@contextlib.contextmanager
def _parquet_file(file: Path) -> Iterator[Any]:
    """Gives an open Parquet file, of which no more is read ahead than a buffer."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False) as table:
            yield table
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).split("\n")[0]
        found = f"no Parquet file, or a damaged one: {reason}"
        raise DataError(found, Location(file)) from None


def _tf_records(file: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    with imports.keras():
        import tensorflow as tf

        records = tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
    number = 0
    try:
        for number, record in enumerate(records, 1):
            found = tf.train.Example.FromString(record)
            row = {name: _feature(each) for name, each in found.features.feature.items()}
            yield Location(file, f"record {number}"), dict(sorted(row.items()))
    except (tf.errors.OpError, DecodeError) as error:
        reason = str(getattr(error, "message", error)).split("\n")[0]
        raise DataError(
            f"no tf.train.Example, or a damaged one: {reason}",
            Location(file, f"record {number + 1}"),
        ) from None


def _feature(feature: Any) -> Any:
    values = getattr(feature, feature.WhichOneof("kind") or "bytes_list").value
    if len(values) != 1:
        return list(values) or None
    (value,) = values
    # A feature has no text, only bytes; so the path of an image is to be told from an image.
    if isinstance(value, bytes) and value.lower().endswith(_PATH_ENDS):
        with contextlib.suppress(UnicodeDecodeError):
            return value.decode()
    return value


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Returns the names that Hugging Face's `datasets` keeps of a column of class numbers."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if feature.get("_type") == "ClassLabel"
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _named(value: Any, names: Sequence[str]) -> Any:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


_READERS: dict[str, Callable[[Path, Sequence[str] | None], Iterator[Row]]] = {
    ".csv": _delimited,
    ".tsv": _delimited,
    ".jsonl": objects,
    ".parquet": _parquet,
    ".tfrecord": _tf_records,
    ".tfrecords": _tf_records,
}
