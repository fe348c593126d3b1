"""Reads tables row by row: delimited text, JSON, Parquet, Arrow and TFRecord.

The columns of a TFRecord are the features of its `tf.train.Example`s. Only a small part of a file
is in memory at a time, but of a JSON array all.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from trainer.config import ReadOptions
from trainer.data import splits
from trainer.data.tables import columns as column_types
from trainer.data.tables import delimited
from trainer.data.tables.delimited import COMPRESSED, Row
from trainer.errors import DataError, Location
from trainer.runtime import imports, memory

_BUFFER_BYTES = 1 << 20
_BATCH_ROWS = 64  # Small, because rows may be images.
_MAX_HEAD = 1 << 16
_DATA_SUFFIXES = (".data", ".dat")  # Of the UCI Machine Learning Repository.
_FASTTEXT_PREFIX = "__label__"
TEXT_SUFFIXES = (".txt", *_DATA_SUFFIXES)  # Of tables, or of other texts.

_Reader = Callable[[Path, ReadOptions, Sequence[str] | None], Iterator[Row]]


def is_table(file: Path) -> bool:
    """Returns whether a file is a table, by its name; for .txt and .data also by its content.

    A file without an extension may be one, too: ask `is_delimited_text`.
    """
    if inner_suffix(file) in TEXT_SUFFIXES:
        return is_delimited_text(file)
    return has_table_name(file)


def has_table_name(file: Path) -> bool:
    """Returns whether the name of a file says that it is a table; that of a .txt does not."""
    return inner_suffix(file) in _READERS


def read(file: Path, options: ReadOptions, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Yields the rows of a table.

    Args:
        file: the table.
        options: how files are read.
        columns: columns that are needed; rows may have others too. None for all.

    Raises:
        DataError: the table is damaged as a whole; for a damaged row, the row says so.
    """
    reader = _READERS.get(inner_suffix(file), _delimited)
    if reader is _delimited and _is_fasttext(file):
        reader = _fasttext
    yield from reader(file, options, columns)


def is_delimited(file: Path) -> bool:
    """Returns whether a table is delimited text, which may have no header."""
    return _READERS.get(inner_suffix(file), _delimited) is _delimited and not _is_fasttext(file)


def inner_suffix(file: Path) -> str:
    """Returns the extension that tells the kind of a table, in lower case: .tsv of a.tsv.gz.

    TensorFlow Datasets adds the number of a piece behind it: a.tfrecord-00000-of-00002.
    """
    name = re.sub(r"-\d+-of-\d+$", "", file.name)
    path = Path(name)
    return Path(path.stem if path.suffix.lower() in COMPRESSED else name).suffix.lower()


def stem(file: Path) -> str:
    """Returns the name of a table without its extensions: "train" for train.csv.gz."""
    path = Path(file.stem if file.suffix.lower() in COMPRESSED else file.name)
    return path.name if re.search(r"-\d+-of-\d+$", path.name) else path.stem


def size_in_memory(file: Path) -> int:
    """Returns the approximate size of all rows of a table in memory, in bytes.

    Raises:
        DataError: the table is damaged.
    """
    if inner_suffix(file) in (".parquet", ".pq"):  # Compressed: the file size says nothing.
        with _parquet_file(file) as table:
            groups = map(table.metadata.row_group, range(table.num_row_groups))
            return 2 * sum(int(group.total_byte_size) for group in groups)
    # Copies as lines, cells and strings; or as records, features and examples.
    compression = 4 if file.suffix.lower() in COMPRESSED else 1
    return 4 * compression * file.stat().st_size


def read_json_lines(
    file: Path, options: ReadOptions, columns: Sequence[str] | None = None, *, flat: bool = True
) -> Iterator[Row]:
    """Yields the objects of a file of JSON lines, or of an array of JSON objects.

    Args:
        file: the table.
        options: how files are read.
        columns: ignored, since all of a line is parsed.
        flat: whether objects within an object become columns with a dot, such as "data.text".
    """
    for location, value, problem in json_values(file, options):
        yield Row(location, {}, problem) if problem else _json_row(location, value, flat=flat)


def json_values(file: Path, options: ReadOptions) -> Iterator[tuple[Location, Any, str]]:
    """Yields the values of a file of JSON lines, or of an array: location, value, problem.

    A line that cannot be read has no value and a problem, which is "" for all others.

    Raises:
        DataError: the file is damaged as a whole.
    """
    if _is_json_array(file):
        yield from _json_array(file)
        return
    for number, line in enumerate(delimited.lines(file, options.encoding), 1):
        if not line.strip():
            continue
        location = Location(file, f"line {number}")
        if delimited.has_bad_bytes(line):
            yield location, None, "not UTF-8; --encoding gives another encoding"
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield location, None, f"not JSON: {error}"
        else:
            yield location, value, ""


def _json_row(location: Location, value: Any, *, flat: bool = True) -> Row:
    if not isinstance(value, dict):
        return Row(location, {}, f"found {type(value).__name__}, expected a JSON object")
    return Row(location, dict(flatten(value)) if flat else value)


def flatten(fields: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the columns of an object of JSON: those of an object within it have a dot."""
    for name, value in fields.items():
        # {"bytes": ..., "path": ...} is an image of Hugging Face's `datasets`.
        if isinstance(value, dict) and value and not {"bytes", "path"} & set(value) and not prefix:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_json_array(file: Path) -> bool:
    """Returns whether a file is one JSON value in several lines or an array, not JSON lines."""
    if inner_suffix(file) != ".json":
        return False
    with delimited.open_binary(file) as content:
        head = content.readline(_MAX_HEAD).strip()
    try:
        return not isinstance(json.loads(head), dict) or b"\n" not in content_of(file, _MAX_HEAD)
    except ValueError:
        return True


def content_of(file: Path, size: int) -> bytes:
    """Returns the first bytes of a file, decompressed."""
    with delimited.open_binary(file) as content:
        return content.read(size)


def _json_array(file: Path) -> Iterator[tuple[Location, Any, str]]:
    memory.check_data(10 * size_in_memory(file), "a JSON file of this size", Location(file))
    with delimited.open_binary(file) as content:
        try:
            value = json.load(content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"not JSON: {error}", Location(file)) from None
    lists = (
        [each for each in value.values() if isinstance(each, list)]
        if isinstance(value, dict)
        else []
    )
    if len(lists) > 1 and len(lists) == len(value) and all(map(splits.from_name, value)):
        # {"train": [...], "test": [...]}
        value = [{**item, "split": split} if isinstance(item, dict) else item
                 for split, items in value.items() for item in items]  # fmt: skip
    elif len(lists) == 1:  # {"version": ..., "data": [...]}
        (value,) = lists
    if not isinstance(value, list):
        raise DataError(
            f"found {type(value).__name__}, expected an array of objects, or one object per line",
            Location(file),
        )
    for number, item in enumerate(value, 1):
        yield Location(file, f"object {number}"), item, ""


def _delimited(file: Path, options: ReadOptions, columns: Sequence[str] | None) -> Iterator[Row]:
    return delimited.read(file, encoding=options.encoding, no_header=options.no_header)


def is_delimited_text(file: Path) -> bool:
    """Returns whether a text file is a table: by its tabs, its header, or fastText's labels."""
    try:
        head = content_of(file, _MAX_HEAD).decode("utf-8", errors="replace")
    except (OSError, EOFError):
        return False
    lines = [line for line in head.splitlines()[:-1] or head.splitlines() if line.strip()]
    if len(lines) < 2:
        return False
    if all(line.startswith(_FASTTEXT_PREFIX) for line in lines):
        return True
    is_split = splits.from_name(file.name) is not None
    delimiters = ",;|\t" if inner_suffix(file) in _DATA_SUFFIXES else ";|\t" if is_split else "\t"
    for delimiter in delimiters:
        if delimiter in lines[0] and len({line.count(delimiter) for line in lines}) == 1:
            return True
    names = [name.strip().strip('"').lower() for name in re.split("[,;|]", lines[0])]
    known = {*column_types.LABELS, *column_types.TEXTS, *column_types.IMAGES}
    return len(names) > 1 and sum(name in known for name in names) > 1


def _is_fasttext(file: Path) -> bool:
    return content_of(file, 256).startswith(_FASTTEXT_PREFIX.encode())


def _fasttext(file: Path, options: ReadOptions, columns: Sequence[str] | None) -> Iterator[Row]:
    """Yields the rows of a file for fastText: `__label__pos a good film`."""
    for number, line in enumerate(delimited.lines(file, options.encoding), 1):
        words = line.split()
        if not words:
            continue
        location = Location(file, f"line {number}")
        labels = list(itertools.takewhile(lambda word: word.startswith(_FASTTEXT_PREFIX), words))
        names = [label.removeprefix(_FASTTEXT_PREFIX) for label in labels]
        text = line.strip().removeprefix(" ".join(labels)).strip()
        yield Row(location, {"text": text, "label": names[0] if len(names) == 1 else names})


def _parquet(file: Path, options: ReadOptions, columns: Sequence[str] | None) -> Iterator[Row]:
    with _parquet_file(file) as table:
        classes = _class_names(table.schema_arrow.metadata or {})
        present = [name for name in table.schema_arrow.names if columns is None or name in columns]
        yield from _arrow_rows(file, table.iter_batches(_BATCH_ROWS, columns=present), classes)


def _arrow_rows(file: Path, batches: Iterable[Any], classes: dict[str, list[str]]) -> Iterator[Row]:
    number = itertools.count(1)
    for batch in batches:
        for row in batch.to_pylist():
            for column, names in classes.items():
                row[column] = _class_name(row.get(column), names)
            yield Row(Location(file, f"row {next(number)}"), row)


def _arrow(file: Path, options: ReadOptions, columns: Sequence[str] | None) -> Iterator[Row]:
    """Yields the rows of a file that Hugging Face's `save_to_disk` wrote, or of Feather."""
    import pyarrow

    try:
        with pyarrow.memory_map(str(file)) as source:
            try:
                reader = pyarrow.ipc.open_stream(source)
                batches: Iterable[Any] = reader
            except pyarrow.ArrowInvalid:
                source.seek(0)
                reader = pyarrow.ipc.open_file(source)
                batches = map(reader.get_batch, range(reader.num_record_batches))
            pieces = (
                batch.slice(start, _BATCH_ROWS)
                for batch in batches
                for start in range(0, batch.num_rows, _BATCH_ROWS)
            )
            yield from _arrow_rows(file, pieces, _class_names(reader.schema.metadata or {}))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).split("\n")[0]
        problem = f"not an Arrow file, or a damaged one: {reason}"
        raise DataError(problem, Location(file)) from None


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


def _tf_records(file: Path, options: ReadOptions, columns: Sequence[str] | None) -> Iterator[Row]:
    with imports.keras():
        import tensorflow as tf

    compression = "GZIP" if content_of_raw(file, 2) == b"\x1f\x8b" else None
    classes = _tfds_class_names(file)
    records = tf.data.TFRecordDataset(str(file), compression).as_numpy_iterator()
    number = 0
    try:
        for number, record in enumerate(records, 1):
            example = tf.train.Example.FromString(record)
            row = {name: _value(feature) for name, feature in example.features.feature.items()}
            for column, names in classes.items():
                row[column] = _class_name(row.get(column), names)
            yield Row(Location(file, f"record {number}"), dict(sorted(row.items())))
    except (tf.errors.OpError, DecodeError) as error:
        # The rest of the message names TensorFlow's own functions.
        reason = str(getattr(error, "message", error)).split("\n")[0].split("}} ")[-1]
        raise DataError(
            f"not TFRecord of tf.train.Example, or damaged: {reason}",
            Location(file, f"record {number + 1}"),
        ) from None


def content_of_raw(file: Path, size: int) -> bytes:
    """Returns the first bytes of a file as they are."""
    with file.open("rb") as content:
        return content.read(size)


def _tfds_class_names(file: Path) -> dict[str, list[str]]:
    """Returns by column the class names that TensorFlow Datasets keeps beside: label.labels.txt."""
    return {
        names.name.removesuffix(".labels.txt"): names.read_text(encoding="utf-8").split("\n")[:-1]
        for names in sorted(file.parent.glob("*.labels.txt"))
    }


def _value(feature: Any) -> Any:
    """Returns the value of a feature; a list of several values; None for no value."""
    values = getattr(feature, feature.WhichOneof("kind") or "bytes_list").value
    if len(values) != 1:
        return list(values) or None
    (value,) = values
    if isinstance(value, bytes):  # Features have bytes, but no texts; images are not UTF-8.
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
    """Returns the name of a class index; None for -1, which stands for no label."""
    if not isinstance(value, int):
        return value
    return None if value == -1 else names[value] if 0 <= value < len(names) else value


_READERS: dict[str, _Reader] = {
    ".csv": _delimited,
    ".tsv": _delimited,
    ".tab": _delimited,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json_lines,
    ".parquet": _parquet,
    ".pq": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
    ".tfrecord": _tf_records,
    ".tfrecords": _tf_records,
    ".tfrec": _tf_records,
}
