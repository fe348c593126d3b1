"""Writes the same examples as real files of every format that docs/data.md lists.

All lossless formats must give bit-identical examples in the same order.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import scipy.sparse
from PIL import Image
from pyarrow import parquet

from trainer import storage
from trainer.config import ReadOptions
from trainer.data import convert
from trainer.data.dataset import Dataset

Array = np.ndarray
Split = tuple[Array, list[str]]  # Examples, and the class name of each.

_EXIF_ORIENTATION, _QUARTER_TURN = 0x0112, 6  # To be displayed rotated clockwise.


@dataclass(frozen=True)
class Data:
    """A data set to write.

    Attributes:
        splits: "train" and perhaps "test" and "validation": images, uint8 (N, H, W), or texts,
            object (N,); sorted by class, as class folders are read.
        url: gs:// path that the files will be uploaded to, which some formats contain.
    """

    splits: dict[str, Split]
    url: str


Write = Callable[[Data, Path], None]


@dataclass(frozen=True)
class Format:
    """One format of a data set.

    Attributes:
        name: name for the table of results.
        write: writes the data to an empty folder.
        examples: how the examples compare with those of the other formats: "identical",
            "other order", "as vectors", "of 16 bits" (times 257, as floats) or "lossy".
        flags: flags that are needed to read it.
        pattern: pattern below the folder, if the data is given by a pattern.
        validation: whether the data also has a validation split.
        remote: whether its files name other files in the bucket.
    """

    name: str
    write: Write
    examples: str = "identical"
    flags: tuple[str, ...] = ()
    pattern: str = ""
    validation: bool = False
    remote: bool = False


@dataclass(frozen=True)
class Kind:
    """Formats that hold the same data.

    Attributes:
        title: title of the data.
        has_test: whether it has a test split; otherwise one is held out.
        texts: whether the examples are texts; otherwise images.
        formats: formats that can hold the data.
    """

    title: str
    has_test: bool
    texts: bool
    formats: tuple[Format, ...]


def first_examples(kind: Kind, shipped: Dataset, url: str, *, train: int, test: int) -> Data:
    """Returns the first examples of each class of a shipped data set, class by class.

    Args:
        kind: kind of data to return.
        shipped: MNIST, or the movie reviews.
        url: gs:// path that the files will be uploaded to.
        train: number of training examples per class.
        test: number of test examples per class, and of validation examples. If the data is to be
            unsplit, the test examples are among the training examples.
    """
    examples, classes = shipped.train.examples, shipped.spec.classes
    ends = {"train": train, "test": train + test, "validation": train + 2 * test}
    if not kind.has_test:
        ends = {"train": train + test}
    members = [np.flatnonzero(shipped.train.labels == label) for label in range(len(classes))]
    splits, begin = {}, 0
    for name, end in ends.items():
        rows = np.concatenate([of_class[begin:end] for of_class in members])
        labels = [classes[label] for label in shipped.train.labels[rows]]
        splits[name] = (examples[rows] if kind.texts else examples[rows][..., 0], labels)
        begin = end
    return Data(splits, url)


def write(format: Format, data: Data, folder: Path) -> None:
    """Writes data in one of the formats to a folder, which it creates."""
    folder.mkdir()
    splits = dict(data.splits)
    if not format.validation:
        splits.pop("validation", None)
    format.write(replace(data, splits=splits), folder)


def upload(folder: Path, url: str) -> None:
    """Uploads all files below a folder to a bucket."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    files = {name: path for name, path in files.items() if path.is_file()}
    storage.write_all(storage.folder(url), files)


# Images


def _upright(values: Array) -> Image.Image:
    return Image.fromarray(values)


def _sixteen_bits(values: Array) -> Image.Image:
    return Image.fromarray(values.astype(np.uint16) * 257)


def _ink(values: Array) -> Image.Image:
    """Returns white pixels whose opacity is the value."""
    return Image.fromarray(np.stack([np.full_like(values, 255), values], axis=-1), "LA")


def _yellow(values: Array) -> Image.Image:
    return Image.fromarray(np.stack([values, values, np.zeros_like(values)], axis=-1))


def _opaque(values: Array) -> Image.Image:
    return _yellow(values).convert("RGBA")


def _yellow_ink(values: Array) -> Image.Image:
    full, none = np.full_like(values, 255), np.zeros_like(values)
    return Image.fromarray(np.stack([full, full, none, values], axis=-1))


def _palette(values: Array) -> Image.Image:
    image = Image.fromarray(values).convert("P")
    image.putpalette([channel for n in range(256) for channel in (n, n, 0)])
    return image


@dataclass(frozen=True)
class Encoding:
    """A way to write an image to a file.

    Attributes:
        suffix: extension of the file name.
        paint: creates the image from its pixels, uint8 (H, W).
        settings: Pillow's settings for this type of file.
        rotated: whether the pixels are rotated, with the orientation in the EXIF data.
    """

    suffix: str
    paint: Callable[[Array], Image.Image] = _upright
    settings: tuple[tuple[str, Any], ...] = ()
    rotated: bool = False

    def content(self, values: Array) -> bytes:
        settings = dict(self.settings)
        if self.rotated:
            values = np.rot90(values)
            exif = Image.Exif()
            exif[_EXIF_ORIENTATION] = _QUARTER_TURN
            settings["exif"] = exif
        file = io.BytesIO()
        names = {".jpg": "jpeg", ".tif": "tiff"}
        kind = names.get(self.suffix, self.suffix.removeprefix("."))
        self.paint(np.ascontiguousarray(values)).save(file, kind, **settings)
        return file.getvalue()


_PNG = Encoding(".png")
_LOSSLESS = (("lossless", True),)


def _encode(split: Split, encodings: Sequence[Encoding]) -> Iterator[tuple[str, bytes, str]]:
    """Yields the name, content and class of each file; alternates between the encodings."""
    for number, (values, label) in enumerate(zip(*split, strict=True)):
        encoding = encodings[number % len(encodings)]
        yield f"{number:05}{encoding.suffix}", encoding.content(values), label


def class_folders(*encodings: Encoding) -> Write:
    def write_data(data: Data, folder: Path) -> None:
        for name, split in data.splits.items():
            root = folder if len(data.splits) == 1 else folder / name
            for file, content, label in _encode(split, encodings or (_PNG,)):
                (root / label).mkdir(parents=True, exist_ok=True)
                (root / label / file).write_bytes(content)

    return write_data


def text_folders(data: Data, folder: Path) -> None:
    for name, (texts, labels) in data.splits.items():
        root = folder if len(data.splits) == 1 else folder / name
        for number, (text, label) in enumerate(zip(texts, labels, strict=True)):
            (root / label).mkdir(parents=True, exist_ok=True)
            (root / label / f"{number:05}.txt").write_text(f"{text}\n", encoding="utf-8")


# Arrays


def _arrays(split: Split) -> tuple[Array, Array]:
    """Returns examples, and labels as uint8 (N,)."""
    return split[0], np.array(split[1]).astype(np.uint8)


def idx(suffix: str) -> Write:
    def write_data(data: Data, folder: Path) -> None:
        for split, name in (("train", "train"), ("test", "t10k")):
            images, labels = _arrays(data.splits[split])
            for array, kind in ((images, "images-idx3"), (labels, "labels-idx1")):
                sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
                content = bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()
                path = folder / f"{name}-{kind}-ubyte{suffix}"
                path.write_bytes(gzip.compress(content) if suffix else content)

    return write_data


def npz(data: Data, folder: Path) -> None:
    arrays = {}
    for name, split in data.splits.items():
        arrays[f"x_{name}"], arrays[f"y_{name}"] = _arrays(split)
    np.savez(folder / "digits.npz", **arrays)


def _rows(images: Array) -> scipy.sparse.csr_matrix:
    return scipy.sparse.csr_matrix(images.reshape(len(images), -1))


def sparse_npz(data: Data, folder: Path) -> None:
    images, labels = _arrays(data.splits["train"])
    m = _rows(images)
    np.savez(
        folder / "digits.npz",
        format="csr", shape=m.shape, data=m.data, indices=m.indices, indptr=m.indptr, labels=labels,
    )  # fmt: skip


def pickled(change: Callable[[Array], Any] = np.asarray) -> Write:
    def write_data(data: Data, folder: Path) -> None:
        (train, y_train), (test, y_test) = (_arrays(data.splits[n]) for n in ("train", "test"))
        content = pickle.dumps([change(train), y_train, change(test), y_test])
        (folder / "digits.pickle").write_bytes(content)

    return write_data


def converted(original: Write) -> Write:
    """Writes what `trainer data convert` makes of data that `original` writes."""

    def write_data(data: Data, folder: Path) -> None:
        with storage.temporary_directory() as temporary:
            original(data, temporary)
            convert.convert(str(temporary), str(folder), ReadOptions())

    return write_data


# Tables of texts, of paths of images, or of images

Row = dict[str, Any]
WriteTable = Callable[[Path, list[Row]], None]


def delimited(delimiter: str = ",") -> WriteTable:
    def put(path: Path, rows: list[Row]) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            table.writeheader()
            table.writerows(rows)

    return put


def json_lines(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def arrow(path: Path, rows: list[Row]) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def hugging_face(path: Path, rows: list[Row]) -> None:
    """Writes Parquet as Hugging Face's `datasets` does: class indices with names, image structs."""
    classes = sorted({row["label"] for row in rows})
    feature = {"names": classes, "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "label": feature}
    content = [
        {"image": {"bytes": row["image"], "path": None}, "label": classes.index(row["label"])}
        for row in rows
    ]
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pyarrow.Table.from_pylist(content).replace_schema_metadata(metadata)
    parquet.write_table(table, path)


def tf_records(path: Path, rows: list[Row]) -> None:
    import tensorflow as tf

    def feature(value: Any) -> tf.train.Feature:
        content = value if isinstance(value, bytes) else value.encode()
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))

    with tf.io.TFRecordWriter(str(path)) as records:
        for row in rows:
            features = {name: feature(value) for name, value in row.items()}
            example = tf.train.Example(features=tf.train.Features(feature=features))
            records.write(example.SerializeToString())


def table(
    write_table: WriteTable, suffix: str, rows_of: Callable[..., list[Row]], files: int = 1
) -> Write:
    """Writes each split as `files` tables; `rows_of` returns the rows, and may write images."""

    def write_data(data: Data, folder: Path) -> None:
        for name, split in data.splits.items():
            rows = rows_of(data, name, split, folder)
            for number in range(files):
                start, end = (at * len(rows) // files for at in (number, number + 1))
                shard = f"-{number:05}-of-{files:05}" if files > 1 else ""
                # TFRecord files have the shard number after the extension, others before it.
                ending = suffix + shard if write_table is tf_records else shard + suffix
                write_table(folder / f"{name}{ending}", rows[start:end])

    return write_data


def texts(data: Data, name: str, split: Split, folder: Path) -> list[Row]:
    return [{"text": text, "label": label} for text, label in zip(*split, strict=True)]


def paths(data: Data, name: str, split: Split, folder: Path) -> list[Row]:
    """Writes image files below the table; returns rows with their relative paths."""
    rows = []
    (folder / "images" / name).mkdir(parents=True)
    for file, content, label in _encode(split, [_PNG]):
        path = f"images/{name}/{file}"
        (folder / path).write_bytes(content)
        rows.append({"path": path, "class": label})
    return rows


def urls(data: Data, name: str, split: Split, folder: Path) -> list[Row]:
    rows = paths(data, name, split, folder)
    return [{**row, "path": f"{data.url}/{row['path']}"} for row in rows]


def contents(*encodings: Encoding) -> Callable[..., list[Row]]:
    def rows_of(data: Data, name: str, split: Split, folder: Path) -> list[Row]:
        return [
            {"image": content, "label": label}
            for _, content, label in _encode(split, encodings or (_PNG,))
        ]

    return rows_of


def vertex_jsonl(kind: str) -> Write:
    """Writes Vertex AI's JSON lines, which name files in buckets or contain texts."""

    def write_data(data: Data, folder: Path) -> None:
        lines = []
        for name, split in data.splits.items():
            if kind == "imageGcsUri":
                values = [row["path"] for row in urls(data, name, split, folder)]
            elif kind == "textGcsUri":
                one_split = replace(data, splits={name: split})
                text_folders(one_split, folder / "texts" / name)
                files = sorted((folder / "texts" / name).rglob("*.txt"))
                values = [f"{data.url}/{file.relative_to(folder)}" for file in files]
            else:
                values = list(split[0])
            use = {"train": "training"}.get(name, name)
            for value, label in zip(values, split[1], strict=True):
                line = {kind: value, "classificationAnnotation": {"displayName": label}}
                if len(data.splits) > 1:
                    line["dataItemResourceLabels"] = {"aiplatform.googleapis.com/ml_use": use}
                lines.append(line)
        json_lines(folder / "items.jsonl", lines)

    return write_data


def file_per_class(data: Data, folder: Path) -> None:
    examples, labels = data.splits["train"]
    for name in sorted(set(labels)):
        lines = [text for text, label in zip(examples, labels, strict=True) if label == name]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


_MIXED = (_PNG, Encoding(".bmp"), Encoding(".tif"), Encoding(".png", _sixteen_bits))
_COLOUR = Encoding(".png", _yellow)

KINDS = (
    Kind(
        "grey images, training and test split",
        has_test=True,
        texts=False,
        formats=(
            Format("IDX, gzip", idx(".gz")),
            Format("IDX", idx("")),
            Format("`.npz`", npz),
            Format("pickle of arrays", pickled(), flags=("--allow-pickle",)),
            Format("pickle of sparse matrices", pickled(_rows), "as vectors", ("--allow-pickle",)),
            Format("class folders, PNG", class_folders()),
            Format("class folders, PNG, and `validation/`", class_folders(), validation=True),
            Format(
                "class folders, PNG of 16 bits",
                class_folders(Encoding(".png", _sixteen_bits)),
                "of 16 bits",
            ),
            Format("class folders, PNG, transparent", class_folders(Encoding(".png", _ink))),
            Format(
                "class folders, PNG rotated by EXIF", class_folders(Encoding(".png", rotated=True))
            ),
            Format("class folders, BMP", class_folders(Encoding(".bmp"))),
            Format("class folders, TIFF", class_folders(Encoding(".tif"))),
            Format("class folders, PNG, BMP, TIFF and 16 bits mixed", class_folders(*_MIXED)),
            Format("class folders, JPEG", class_folders(Encoding(".jpg")), "lossy"),
            Format(
                "class folders, JPEG rotated by EXIF",
                class_folders(Encoding(".jpg", rotated=True)),
                "lossy",
            ),
            Format("CSV of paths", table(delimited(), ".csv", paths)),
            Format("CSV of `gs://` paths", table(delimited(), ".csv", urls), remote=True),
            Format("CSV of paths, `;`", table(delimited(";"), ".csv", paths)),
            Format("TSV of paths", table(delimited("\t"), ".tsv", paths)),
            Format("JSON lines of paths", table(json_lines, ".jsonl", paths)),
            Format("Parquet of paths", table(arrow, ".parquet", paths)),
            Format("Parquet of images", table(arrow, ".parquet", contents())),
            Format("Parquet as Hugging Face's", table(hugging_face, ".parquet", contents())),
            Format("TFRecord of paths", table(tf_records, ".tfrecord", paths)),
            Format("TFRecord of images", table(tf_records, ".tfrecord", contents())),
            Format(
                "`*.tfrecord-*`, 4 files per split",
                table(tf_records, ".tfrecord", contents(), files=4),
                pattern="/*.tfrecord-*",
            ),
            Format(
                "Vertex AI's JSON lines, `ml_use`",
                vertex_jsonl("imageGcsUri"),
                pattern="/*.jsonl",
                remote=True,
            ),
            Format("shards of `.npz`", converted(npz), "other order"),
            Format("shards of class folders", converted(class_folders()), "other order"),
        ),
    ),
    Kind(
        "unsplit grey images",
        has_test=False,
        texts=False,
        formats=(
            Format("`.npz`", npz),
            Format("`.npz`, sparse", sparse_npz, "as vectors"),
            Format("class folders, PNG", class_folders()),
            Format("CSV of paths", table(delimited(), ".csv", paths)),
            Format(
                "`*.parquet`, 4 files",
                table(arrow, ".parquet", contents(), files=4),
                pattern="/*.parquet",
            ),
            Format(
                "Vertex AI's JSON lines",
                vertex_jsonl("imageGcsUri"),
                pattern="/*.jsonl",
                remote=True,
            ),
        ),
    ),
    Kind(
        "colour images, training and test split",
        has_test=True,
        texts=False,
        formats=(
            Format("class folders, PNG", class_folders(_COLOUR)),
            Format("class folders, PNG with alpha", class_folders(Encoding(".png", _opaque))),
            Format("class folders, PNG, transparent", class_folders(Encoding(".png", _yellow_ink))),
            Format("class folders, PNG with a palette", class_folders(Encoding(".png", _palette))),
            Format("class folders, GIF", class_folders(Encoding(".gif", _palette))),
            Format("class folders, BMP", class_folders(Encoding(".bmp", _yellow))),
            Format("class folders, WebP", class_folders(Encoding(".webp", _yellow, _LOSSLESS))),
            Format(
                "class folders, WebP, transparent",
                class_folders(Encoding(".webp", _yellow_ink, _LOSSLESS)),
            ),
            Format(
                "class folders, WebP, lossy", class_folders(Encoding(".webp", _yellow)), "lossy"
            ),
            Format("class folders, JPEG", class_folders(Encoding(".jpg", _yellow)), "lossy"),
            Format("Parquet of images", table(arrow, ".parquet", contents(_COLOUR))),
            Format("TFRecord of images", table(tf_records, ".tfrecord", contents(_COLOUR))),
        ),
    ),
    Kind(
        "unsplit texts",
        has_test=False,
        texts=True,
        formats=(
            Format("a file per class", file_per_class),
            Format("class folders", text_folders),
            Format("CSV", table(delimited(), ".csv", texts)),
            Format("CSV, `;`", table(delimited(";"), ".csv", texts)),
            Format("TSV", table(delimited("\t"), ".tsv", texts)),
            Format("JSON lines", table(json_lines, ".jsonl", texts)),
            Format("Parquet", table(arrow, ".parquet", texts)),
            Format("TFRecord", table(tf_records, ".tfrecord", texts)),
            Format(
                "`*.csv`, 4 files", table(delimited(), ".csv", texts, files=4), pattern="/*.csv"
            ),
            Format("Vertex AI's JSON lines, `textContent`", vertex_jsonl("textContent")),
            Format(
                "Vertex AI's JSON lines, `textGcsUri`",
                vertex_jsonl("textGcsUri"),
                pattern="/*.jsonl",
                remote=True,
            ),
        ),
    ),
    Kind(
        "texts, training and test split",
        has_test=True,
        texts=True,
        formats=(
            Format("class folders", text_folders),
            Format("CSV", table(delimited(), ".csv", texts)),
            Format(
                "JSON lines and `validation.jsonl`",
                table(json_lines, ".jsonl", texts),
                validation=True,
            ),
            Format("Parquet", table(arrow, ".parquet", texts)),
            Format("Vertex AI's JSON lines, `ml_use`", vertex_jsonl("textContent")),
            Format(
                "Parquet of `trainer data convert`",
                converted(table(delimited(), ".csv", texts)),
                "other order",
            ),
        ),
    ),
)
