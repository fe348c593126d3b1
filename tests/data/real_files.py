"""The same examples as real files of every format that docs/data.md lists.

What a format holds without loss must be read as the same examples in the same order, to the bit.
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
Part = tuple[Array, list[str]]  # Examples, and the class of each by its name.

_EXIF_ORIENTATION, _QUARTER_TURN = 0x0112, 6  # To be turned clockwise, to be seen upright.


@dataclass(frozen=True)
class Data:
    """What is written.

    Attributes:
        parts: "train" and perhaps "test" and "validation": images, uint8 (N, H, W), those of a
            class side by side, as folders of classes would have them; or texts, object (N,).
        url: gs:// path where the files are going to lie, which some formats name in them.
    """

    parts: dict[str, Part]
    url: str


Write = Callable[[Data, Path], None]


@dataclass(frozen=True)
class Format:
    """One way to keep a data set.

    Attributes:
        name: in words.
        write: writes it into an empty folder.
        examples: what they are, read again, beside those of the other formats: "the same", "in
            another order", "as vectors" or "lossy".
        flags: that reading it takes.
        pattern: behind the folder, if the data is given by a pattern.
        validation: whether the data has a validation part too, which changes nothing else.
        remote: whether its files name others in the bucket.
    """

    name: str
    write: Write
    examples: str = "the same"
    flags: tuple[str, ...] = ()
    pattern: str = ""
    validation: bool = False
    remote: bool = False


@dataclass(frozen=True)
class Kind:
    """Formats that hold the same data.

    Attributes:
        title: of the data.
        parted: whether it has a test part; if not, that is held out by the seed.
        texts: whether it is of texts, and not of images.
        formats: those that can hold it.
    """

    title: str
    parted: bool
    texts: bool
    formats: tuple[Format, ...]


def data(kind: Kind, shipped: Dataset, url: str, *, train: int, test: int) -> Data:
    """Returns the first examples of each class of a shipped data set, class by class.

    Args:
        kind: of formats that are to hold them.
        shipped: MNIST, or the movie reviews.
        url: where they are going to lie.
        train: of each class, how many there are to be for training.
        test: of each class, how many for the test, and again for validation; the former are among
            the training examples, if the data is to be in one piece.
    """
    source, classes = shipped.train, shipped.spec.classes
    ends = {"train": train, "test": train + test, "validation": train + 2 * test}
    if not kind.parted:
        ends = {"train": train + test}
    members = [np.flatnonzero(source.labels == label) for label in range(len(classes))]
    parts, begin = {}, 0
    for name, end in ends.items():
        rows = np.concatenate([of_class[begin:end] for of_class in members])
        examples = source.examples[rows]
        labels = [classes[label] for label in source.labels[rows]]
        parts[name] = (examples if kind.texts else examples[..., 0], labels)
        begin = end
    return Data(parts, url)


def write(form: Format, whole: Data, folder: Path) -> None:
    """Writes data in one of the formats into a folder, which is made."""
    folder.mkdir()
    parts = {n: part for n, part in whole.parts.items() if n != "validation" or form.validation}
    form.write(replace(whole, parts=parts), folder)


def upload(folder: Path, url: str) -> None:
    """Puts all files below a folder into a bucket."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    files = {name: path for name, path in files.items() if path.is_file()}
    storage.write_all(storage.folder(url), files)


# Images


def _upright(values: Array) -> Image.Image:
    return Image.fromarray(values)


def _sixteen_bits(values: Array) -> Image.Image:
    return Image.fromarray(values.astype(np.uint16) * 257)


def _ink(values: Array) -> Image.Image:
    """White, and as opaque as it is to be bright."""
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
    """How an image becomes a file.

    Attributes:
        suffix: of its name.
        paint: makes the image of its pixels, uint8 (H, W).
        settings: of Pillow's for that kind of file.
        turned: whether it lies on its side, and its EXIF data says so.
    """

    suffix: str
    paint: Callable[[Array], Image.Image] = _upright
    settings: tuple[tuple[str, Any], ...] = ()
    turned: bool = False

    def content(self, values: Array) -> bytes:
        settings = dict(self.settings)
        if self.turned:
            values = np.rot90(values)
            exif = Image.Exif()
            exif[_EXIF_ORIENTATION] = _QUARTER_TURN
            settings["exif"] = exif
        file = io.BytesIO()
        usual = {".jpg": "jpeg", ".tif": "tiff"}
        kind = usual.get(self.suffix, self.suffix.removeprefix("."))
        self.paint(np.ascontiguousarray(values)).save(file, kind, **settings)
        return file.getvalue()


_PNG = Encoding(".png")
_LOSSLESS = (("lossless", True),)


def _each(part: Part, encodings: Sequence[Encoding]) -> Iterator[tuple[str, bytes, str]]:
    """Gives a file's name, content and class; the encodings take turns."""
    for number, (values, label) in enumerate(zip(*part, strict=True)):
        encoding = encodings[number % len(encodings)]
        yield f"{number:05}{encoding.suffix}", encoding.content(values), label


def class_folders(*encodings: Encoding) -> Write:
    def written(whole: Data, folder: Path) -> None:
        for name, part in whole.parts.items():
            root = folder if len(whole.parts) == 1 else folder / name
            for file, content, label in _each(part, encodings or (_PNG,)):
                (root / label).mkdir(parents=True, exist_ok=True)
                (root / label / file).write_bytes(content)

    return written


def text_folders(whole: Data, folder: Path) -> None:
    for name, (texts, labels) in whole.parts.items():
        root = folder if len(whole.parts) == 1 else folder / name
        for number, (text, label) in enumerate(zip(texts, labels, strict=True)):
            (root / label).mkdir(parents=True, exist_ok=True)
            (root / label / f"{number:05}.txt").write_text(f"{text}\n", encoding="utf-8")


# Arrays


def _numbers(part: Part) -> tuple[Array, Array]:
    return part[0], np.array(part[1]).astype(np.uint8)


def idx(suffix: str) -> Write:
    def written(whole: Data, folder: Path) -> None:
        for part, name in (("train", "train"), ("test", "t10k")):
            images, labels = _numbers(whole.parts[part])
            for array, kind in ((images, "images-idx3"), (labels, "labels-idx1")):
                sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
                content = bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()
                path = folder / f"{name}-{kind}-ubyte{suffix}"
                path.write_bytes(gzip.compress(content) if suffix else content)

    return written


def npz(whole: Data, folder: Path) -> None:
    arrays = {}
    for name, part in whole.parts.items():
        arrays[f"x_{name}"], arrays[f"y_{name}"] = _numbers(part)
    np.savez(folder / "digits.npz", **arrays)


def _rows(images: Array) -> scipy.sparse.csr_matrix:
    return scipy.sparse.csr_matrix(images.reshape(len(images), -1))


def sparse_npz(whole: Data, folder: Path) -> None:
    images, labels = _numbers(whole.parts["train"])
    m = _rows(images)
    np.savez(
        folder / "digits.npz",
        format="csr", shape=m.shape, data=m.data, indices=m.indices, indptr=m.indptr, labels=labels,
    )  # fmt: skip


def pickled(change: Callable[[Array], Any] = np.asarray) -> Write:
    def written(whole: Data, folder: Path) -> None:
        (train, y_train), (test, y_test) = (_numbers(whole.parts[n]) for n in ("train", "test"))
        content = pickle.dumps([change(train), y_train, change(test), y_test])
        (folder / "digits.pickle").write_bytes(content)

    return written


def shards(before: Write) -> Write:
    """Of what is written so; texts become Parquet."""

    def written(whole: Data, folder: Path) -> None:
        with storage.temporary_directory() as place:
            before(whole, place)
            convert.convert(str(place), str(folder), ReadOptions())

    return written


# Tables: of texts, or of paths of images, or of images themselves.

Row = dict[str, Any]
Put = Callable[[Path, list[Row]], None]


def delimited(delimiter: str = ",") -> Put:
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
    """As its `datasets` does: numbers of classes with their names, files within a structure."""
    classes = sorted({row["label"] for row in rows})
    feature = {"names": classes, "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "label": feature}
    held = [
        {"image": {"bytes": row["image"], "path": None}, "label": classes.index(row["label"])}
        for row in rows
    ]
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pyarrow.Table.from_pylist(held).replace_schema_metadata(metadata)
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


def table(put: Put, suffix: str, rows_of: Callable[..., list[Row]], pieces: int = 1) -> Write:
    """A file a part, or so many pieces of it; `rows_of` makes the rows, and may write images."""

    def written(whole: Data, folder: Path) -> None:
        for name, part in whole.parts.items():
            rows = rows_of(whole, name, part, folder)
            for piece in range(pieces):
                some = rows[piece * len(rows) // pieces : (piece + 1) * len(rows) // pieces]
                class_names = f"-{piece:05}-of-{pieces:05}" if pieces > 1 else ""
                # Behind the kind of file in TFRecord's custom, before it in others'.
                end = suffix + class_names if put is tf_records else class_names + suffix
                put(folder / f"{name}{end}", some)

    return written


def texts(whole: Data, name: str, part: Part, folder: Path) -> list[Row]:
    return [{"text": text, "label": label} for text, label in zip(*part, strict=True)]


def paths(whole: Data, name: str, part: Part, folder: Path) -> list[Row]:
    """Relative ones, of files below the table."""
    rows = []
    (folder / "images" / name).mkdir(parents=True)
    for file, content, label in _each(part, [_PNG]):
        place = f"images/{name}/{file}"
        (folder / place).write_bytes(content)
        rows.append({"path": place, "class": label})
    return rows


def urls(whole: Data, name: str, part: Part, folder: Path) -> list[Row]:
    rows = paths(whole, name, part, folder)
    return [{**row, "path": f"{whole.url}/{row['path']}"} for row in rows]


def contents(*encodings: Encoding) -> Callable[..., list[Row]]:
    def rows_of(whole: Data, name: str, part: Part, folder: Path) -> list[Row]:
        return [
            {"image": content, "label": label}
            for _, content, label in _each(part, encodings or (_PNG,))
        ]

    return rows_of


def managed(kind: str) -> Write:
    """Vertex AI's JSON lines, which name files in buckets or hold texts."""

    def written(whole: Data, folder: Path) -> None:
        lines = []
        for name, part in whole.parts.items():
            if kind == "imageGcsUri":
                values = [row["path"] for row in urls(whole, name, part, folder)]
            elif kind == "textGcsUri":
                one = replace(whole, parts={name: part})
                text_folders(one, folder / "texts" / name)
                files = sorted((folder / "texts" / name).rglob("*.txt"))
                values = [f"{whole.url}/{file.relative_to(folder)}" for file in files]
            else:
                values = list(part[0])
            use = {"train": "training"}.get(name, name)
            for value, label in zip(values, part[1], strict=True):
                line = {kind: value, "classificationAnnotation": {"displayName": label}}
                if len(whole.parts) > 1:
                    line["dataItemResourceLabels"] = {"aiplatform.googleapis.com/ml_use": use}
                lines.append(line)
        json_lines(folder / "items.jsonl", lines)

    return written


def file_a_class(whole: Data, folder: Path) -> None:
    examples, labels = whole.parts["train"]
    for name in sorted(set(labels)):
        lines = [text for text, label in zip(examples, labels, strict=True) if label == name]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


_MIXED = (_PNG, Encoding(".bmp"), Encoding(".tif"), Encoding(".png", _sixteen_bits))
_COLOUR = Encoding(".png", _yellow)

KINDS = (
    Kind(
        "grey images, training and test part",
        parted=True,
        texts=False,
        formats=(
            Format("IDX, gzip", idx(".gz")),
            Format("IDX", idx("")),
            Format("`.npz`", npz),
            Format("pickle of arrays", pickled(), flags=("--allow-pickle",)),
            Format("pickle of sparse matrices", pickled(_rows), "as vectors", ("--allow-pickle",)),
            Format("class folders, PNG", class_folders()),
            Format("the same and `validation/`", class_folders(), validation=True),
            Format("class folders, PNG of 16 bits", class_folders(Encoding(".png", _sixteen_bits))),
            Format("class folders, PNG, transparent", class_folders(Encoding(".png", _ink))),
            Format(
                "class folders, PNG turned by EXIF", class_folders(Encoding(".png", turned=True))
            ),
            Format("class folders, BMP", class_folders(Encoding(".bmp"))),
            Format("class folders, TIFF", class_folders(Encoding(".tif"))),
            Format("class folders, PNG, BMP, TIFF and 16 bits mixed", class_folders(*_MIXED)),
            Format("class folders, JPEG", class_folders(Encoding(".jpg")), "lossy"),
            Format(
                "class folders, JPEG turned by EXIF",
                class_folders(Encoding(".jpg", turned=True)),
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
                "`*.tfrecord-*`, 4 pieces a part",
                table(tf_records, ".tfrecord", contents(), pieces=4),
                pattern="/*.tfrecord-*",
            ),
            Format(
                "Vertex AI's JSON lines, `ml_use`",
                managed("imageGcsUri"),
                pattern="/*.jsonl",
                remote=True,
            ),
            Format("shards of `.npz`", shards(npz), "in another order"),
            Format("shards of class folders", shards(class_folders()), "in another order"),
        ),
    ),
    Kind(
        "grey images in one piece",
        parted=False,
        texts=False,
        formats=(
            Format("`.npz`", npz),
            Format("`.npz`, sparse", sparse_npz, "as vectors"),
            Format("class folders, PNG", class_folders()),
            Format("CSV of paths", table(delimited(), ".csv", paths)),
            Format(
                "`*.parquet`, 4 pieces",
                table(arrow, ".parquet", contents(), pieces=4),
                pattern="/*.parquet",
            ),
            Format(
                "Vertex AI's JSON lines", managed("imageGcsUri"), pattern="/*.jsonl", remote=True
            ),
        ),
    ),
    Kind(
        "colour images, training and test part",
        parted=True,
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
        "texts in one piece",
        parted=False,
        texts=True,
        formats=(
            Format("a file a class", file_a_class),
            Format("class folders", text_folders),
            Format("CSV", table(delimited(), ".csv", texts)),
            Format("CSV, `;`", table(delimited(";"), ".csv", texts)),
            Format("TSV", table(delimited("\t"), ".tsv", texts)),
            Format("JSON lines", table(json_lines, ".jsonl", texts)),
            Format("Parquet", table(arrow, ".parquet", texts)),
            Format("TFRecord", table(tf_records, ".tfrecord", texts)),
            Format(
                "`*.csv`, 4 pieces", table(delimited(), ".csv", texts, pieces=4), pattern="/*.csv"
            ),
            Format("Vertex AI's JSON lines, `textContent`", managed("textContent")),
            Format(
                "Vertex AI's JSON lines, `textGcsUri`",
                managed("textGcsUri"),
                pattern="/*.jsonl",
                remote=True,
            ),
        ),
    ),
    Kind(
        "texts, training and test part",
        parted=True,
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
            Format("Vertex AI's JSON lines, `ml_use`", managed("textContent")),
            Format(
                "Parquet of `trainer data convert`",
                shards(table(delimited(), ".csv", texts)),
                "in another order",
            ),
        ),
    ),
)
