"""Tables: CSV, TSV, JSON lines, Parquet or TFRecord, with labels and one of texts or images.

A column of TFRecord is a feature of its `tf.train.Example`s.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from trainer import memory, storage
from trainer.datasets import images, managed, parts
from trainer.datasets.dataset import Array, Reading, Source, Split
from trainer.errors import DataError
from trainer.log import LOGGER, native_greetings_hidden
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

_PATH_ENDS = tuple(suffix.encode() for suffix in images.SUFFIXES)

_MOST_CHARACTERS = 1_000_000
_MOST_MISSING = 0.1
_MOST_NAMED = 5

# What a row is called in messages, and its cells by the names of their columns.
_Row = tuple[str, dict[str, Any]]


def recognises(files: Sequence[Path]) -> bool:
    """Tells whether there are tables, perhaps beside images, and not a managed data set's."""
    tables = [file for file in files if _is_table(file)]
    others = [file for file in files if not _is_table(file)]
    if not tables or not all(file.suffix.lower() in images.SUFFIXES for file in others):
        return False
    return not (managed.recognises(tables) and managed.is_one(tables[0]))


def read(files: Sequence[Path], options: Reading) -> Source:
    """Reads all rows; files named train, validation and test make the parts.

    Rows without a label or an example are left out, which is told.

    Raises:
        DataError: a file is damaged, it is not plain which column is which, or more than a tenth
            of the rows are incomplete.
        StorageError: an image that a row names is not there, or may not be read.
    """
    rows = [
        (place, row, parts.of_file(file.name) or "train")
        for file in filter(_is_table, files)
        for place, row in _READERS[_kind(file)](file)
    ]
    if not rows:
        raise DataError(f"{files[0].name}: no rows")
    label_column, column, are_images = _columns(rows[0][1], options)
    complete = [
        (place, label, row[column], part)
        for place, row, part in rows
        if (label := _label(row.get(label_column))) and not _is_missing(row.get(column))
    ]
    _tell_missing([place for place, *_ in rows], [place for place, *_ in complete])
    places, labels, values, part_of = (list(each) for each in zip(*complete, strict=True))
    examples = _images(places, values, options) if are_images else _texts(places, values)
    return parts.source(examples, labels, part_of)


def _is_table(file: Path) -> bool:
    return _kind(file) in _READERS


def _kind(file: Path) -> str:
    """Returns the end of a file's name, without a number of shards behind it, in lower case."""
    return Path(re.sub(r"-\d+-of-\d+$", "", file.name)).suffix.lower()


def _columns(first: dict[str, Any], options: Reading) -> tuple[str, str, bool]:
    """Returns the column of labels, that of examples, and whether those are images."""
    label = _column(first, options.label_column, _LABELS, "--label-column")
    if options.text_column and options.image_column:
        raise DataError("--text-column and --image-column: expected one of them")
    if options.text_column:
        return label, _column(first, options.text_column, (), "--text-column"), False
    if options.image_column:
        return label, _column(first, options.image_column, (), "--image-column"), True
    others = [name for name in first if name != label]
    plain = [name for name in others if name.lower() in _TEXTS + _IMAGES]
    chosen = others if len(others) == 1 else plain
    if len(chosen) != 1:
        raise DataError(
            f"found the columns {_listed(first)}; --text-column or --image-column says which one "
            "holds the examples"
        )
    value = first[chosen[0]]
    is_file = isinstance(value, str) and value.lower().endswith(images.SUFFIXES)
    is_content = isinstance(value, bytes) and chosen[0].lower() not in _TEXTS
    return label, chosen[0], is_file or is_content or isinstance(value, dict)


def _column(first: dict[str, Any], name: str | None, usual: Sequence[str], flag: str) -> str:
    if name is not None:
        if name not in first:
            raise DataError(f"{flag} {name}: no such column, found {_listed(first)}")
        return name
    plain = [column for column in first if column.lower() in usual]
    if len(plain) != 1:
        raise DataError(
            f"found the columns {_listed(first)}; {flag} says which one holds the labels, if the "
            "first line is a header"
        )
    return plain[0]


def _listed(columns: Iterable[str]) -> str:
    names = list(columns)
    return ", ".join(repr(name[:40]) for name in names[:10]) + (", ..." if len(names) > 10 else "")


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


def _tell_missing(places: Sequence[str], complete: Sequence[str]) -> None:
    known = set(complete)
    missing = [place for place in places if place not in known]
    if not missing:
        return
    some = ", ".join(missing[:_MOST_NAMED])
    message = f"{len(missing)} of {len(places)} rows lack a label or an example: {some}"
    if len(missing) > _MOST_MISSING * len(places):
        raise DataError(f"{message}; expected at most a tenth")
    LOGGER.warning("left out: %s", message)


def _texts(places: Sequence[str], values: Sequence[Any]) -> Array:
    texts = np.empty(len(values), dtype=object)
    for number, (place, value) in enumerate(zip(places, values, strict=True)):
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError as error:
                raise DataError(f"{place}: not UTF-8: {error}") from None
        if not isinstance(value, str) or len(value) > _MOST_CHARACTERS:
            found = f"{len(value)} characters" if isinstance(value, str) else type(value).__name__
            raise DataError(f"{place}: {found}, expected a text of up to {_MOST_CHARACTERS}")
        texts[number] = value.strip()
    return texts


def _images(places: Sequence[str], values: Sequence[Any], options: Reading) -> Array:
    # Hugging Face's tables hold a file's content beside its path.
    held = [value.get("bytes") if isinstance(value, dict) else value for value in values]
    files = [
        _file(place, value, options)
        for place, value in zip(places, held, strict=True)
        if not isinstance(value, bytes)
    ]
    stored = storage.read_all(files)
    names = iter(files)
    return images.read(
        [
            place if isinstance(value, bytes) else next(names)
            for place, value in zip(places, held, strict=True)
        ],
        (value if isinstance(value, bytes) else next(stored) for value in held),
        size=options.image_size,
    )


def _file(place: str, value: Any, options: Reading) -> str:
    """Returns where the image lies that a row names."""
    if not isinstance(value, str):
        raise DataError(f"{place}: found {type(value).__name__}, expected the path of an image")
    if storage.is_remote(value):
        return value
    # A table from elsewhere is not to read any file of this machine.
    if options.remote and (value.startswith("/") or ".." in value.split("/")):
        raise DataError(f"{place}: {value}: expected gs://bucket/path, or a path below the data")
    return value if value.startswith("/") else f"{options.root}/{value}"


def _delimited(file: Path) -> Iterator[_Row]:
    memory.check_data(4 * file.stat().st_size, file.name)  # Lines, cells, strings.
    csv.field_size_limit(_MOST_CHARACTERS)
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            head = lines.readline()
            delimiter = "\t" if file.suffix.lower() == ".tsv" else max(",;\t", key=head.count)
            lines.seek(0)
            rows = csv.reader(lines, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(rows, [])]
            if len(set(header)) < len(header):
                raise DataError(f"{file.name}: columns of the same name: {_listed(header)}")
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise DataError(
                        f"{file.name}: line {rows.line_num} has {len(row)} cells, expected "
                        f"{len(header)} as in the header"
                    )
                yield f"{file.name}: line {rows.line_num}", dict(zip(header, row, strict=True))
    except UnicodeDecodeError as error:
        raise DataError(f"{file.name}: not UTF-8: {error}") from None
    except csv.Error as error:
        raise DataError(f"{file.name}: line {rows.line_num}: {error}") from None


def _parquet(file: Path) -> Iterator[_Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            groups = (table.metadata.row_group(at) for at in range(table.num_row_groups))
            memory.check_data(2 * sum(group.total_byte_size for group in groups), file.name)
            classes = _class_names(table.schema_arrow.metadata or {})
            number = itertools.count(1)
            for batch in table.iter_batches():
                for row in batch.to_pylist():
                    for column, named in classes.items():
                        row[column] = _named(row.get(column), named)
                    yield f"{file.name}: row {next(number)}", row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).split("\n")[0]
        raise DataError(f"{file.name}: no Parquet file, or a damaged one: {reason}") from None


def _tf_records(file: Path) -> Iterator[_Row]:
    memory.check_data(4 * file.stat().st_size, file.name)  # Records, features, examples.
    with native_greetings_hidden():
        import tensorflow as tf

        records = tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
    number = 0
    try:
        for number, record in enumerate(records, 1):
            found = tf.train.Example.FromString(record)
            row = {name: _feature(each) for name, each in found.features.feature.items()}
            yield f"{file.name}: record {number}", dict(sorted(row.items()))
    except (tf.errors.OpError, DecodeError) as error:
        reason = str(getattr(error, "message", error)).split("\n")[0]
        raise DataError(
            f"{file.name}: record {number + 1}: no tf.train.Example, or a damaged one: {reason}"
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


def write(folder: Folder, parts: Mapping[str, Split], classes: tuple[str, ...]) -> None:
    """Writes texts as Parquet, which Hugging Face's `datasets` reads too, with their classes.

    Args:
        folder: where it goes, local or in a bucket.
        parts: of the data set, by name.
        classes: class names.
    """
    import pyarrow
    from pyarrow import parquet

    feature = {"names": list(classes), "_type": "ClassLabel"}
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": feature}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    with storage.scratch() as scratch:
        for name, part in parts.items():
            columns = {
                "text": pyarrow.array(part.examples, pyarrow.string()),
                "label": pyarrow.array(part.labels, pyarrow.int64()),
            }
            path = scratch / f"{name}.parquet"
            whole = pyarrow.table(columns).replace_schema_metadata(metadata)
            parquet.write_table(whole, path, compression="zstd")
            folder.put(path.name, path)


_READERS: dict[str, Callable[[Path], Iterator[_Row]]] = {
    ".csv": _delimited,
    ".tsv": _delimited,
    ".jsonl": managed.objects,
    ".parquet": _parquet,
    ".tfrecord": _tf_records,
    ".tfrecords": _tf_records,
}
