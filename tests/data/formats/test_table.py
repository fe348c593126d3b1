"""Tests of tables of texts or images with a column of labels."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from tests.data.formats.test_images import encoded
from trainer import storage
from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Dataset
from trainer.errors import DataError, StorageError

LINES = [
    (
        f'A "good" film, no {n}\nin two lines' if n % 2 else f"bad; {n}",
        "pos neg".split()[n % 2 == 0],
    )
    for n in range(40)
]


def quoted(cell: object) -> str:
    return '"' + str(cell).replace('"', '""') + '"'


def rows(
    delimiter: str = ",", lines: list[tuple[str, str]] | None = None, header: str = "text,label"
) -> bytes:
    table = [header.replace(",", delimiter)]
    table += [delimiter.join(map(quoted, line)) for line in lines or LINES]
    return ("\ufeff" + "\r\n".join(table) + "\r\n").encode()


def json_lines(lines: list[dict[str, Any]]) -> bytes:
    return "\n".join(map(json.dumps, lines)).encode()


def write(root: Path, files: Mapping[str, bytes]) -> str:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return str(root)


def texts(data: Dataset) -> dict[str, str]:
    """Returns the class name of each text."""
    return {
        text: data.spec.classes[label]
        for split in (data.train, data.test)
        for text, label in zip(split.examples, split.labels, strict=True)
    }


def make_parquet(
    path: Path, columns: dict[str, Any], metadata: dict[str, str] | None = None
) -> None:
    table = pyarrow.table(columns)
    parquet.write_table(table.replace_schema_metadata(metadata), path)


def tf_records(path: Path, rows: list[dict[str, Any]]) -> None:
    import tensorflow as tf

    def feature(value: Any) -> Any:
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in rows:
            features = tf.train.Features(feature={k: feature(v) for k, v in row.items()})
            writer.write(tf.train.Example(features=features).SerializeToString())


def test_tf_records_of_texts_and_images_are_read(tmp_path: Path) -> None:
    texts_folder, images_folder = tmp_path / "texts", tmp_path / "images"
    texts_folder.mkdir()
    images_folder.mkdir()
    lines = [{"text": text.encode(), "label": label.encode()} for text, label in LINES]
    tf_records(texts_folder / "a.tfrecords", lines)
    assert texts(loader.load(DataOptions(data=str(texts_folder), seed=0))) == dict(LINES)
    pictures = [
        {"image": encoded(np.full((5, 4), n, np.uint8)), "label": n % 2, "number": n}
        for n in range(20)
    ]
    tf_records(images_folder / "my-train.tfrecord-00000-of-00002", pictures[:10])
    tf_records(images_folder / "my-train.tfrecord-00001-of-00002", pictures[10:16])
    tf_records(images_folder / "my-test.tfrecord-00000-of-00001", pictures[16:])
    spec = loader.load(DataOptions(data=str(images_folder), seed=0)).spec
    assert (spec.sizes, spec.classes) == ({"train": 16, "test": 4}, ("0", "1"))
    file = images_folder / "my-train.tfrecord-00001-of-00002"
    for content, message in (
        (
            file.read_bytes()[:-3],
            "record 6: not TFRecord of tf.train.Example, or damaged: truncated record",
        ),
        (b"no records at all", "record 1: not TFRecord of tf.train.Example, or damaged: "),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=f"00001-of-00002: {message}"):
            loader.load(DataOptions(data=str(images_folder), seed=0))


@pytest.mark.parametrize(
    "name", ["a.csv", "a.CSV", "b.tsv", "semicolons.csv", "c.jsonl", "d.parquet"]
)
def test_all_kinds_of_tables_give_the_same_data(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        make_parquet(
            tmp_path / name,
            {key: [line[at] for line in LINES] for at, key in enumerate(("text", "label"))},
        )
    else:
        content = rows({"b": "\t", "s": ";"}.get(name[0], ","))
        if name.endswith("jsonl"):
            content = json_lines([{"label": label, "text": text} for text, label in LINES])
        write(tmp_path, {name: content})
    for path in (tmp_path, tmp_path / name):
        assert texts(loader.load(DataOptions(data=str(path), seed=0))) == dict(LINES)


def test_the_split_of_a_table_is_in_its_name(tmp_path: Path) -> None:
    files = {"train-0.csv": rows(lines=LINES[:20]), "train-1.csv": rows(lines=LINES[20:30]),
             "val.csv": rows(lines=LINES[30:34]), "test.csv": rows(lines=LINES[34:])}  # fmt: skip
    data = loader.load(DataOptions(data=write(tmp_path, files), seed=0))
    assert data.spec.sizes == {"train": 30, "validation": 4, "test": 6}
    whole = loader.load(DataOptions(data=f"{tmp_path}/train-*.csv", seed=0))
    assert whole.spec.sizes == {"train": 26, "test": 4}


def test_columns_with_unusual_names_are_given_by_flags(tmp_path: Path) -> None:
    lines = [(text, str(n % 3), f"{text} again", label) for n, (text, label) in enumerate(LINES)]
    path = write(tmp_path, {"a.csv": rows(lines=lines, header="comments,stars,say,verdict")})
    with pytest.raises(
        DataError,
        match=r"found the columns 'comments', 'stars', 'say', 'verdict'; give the column of the "
        "labels with --label-column, for example --label-column 'stars'",
    ):
        loader.load(DataOptions(data=path, seed=0))
    with pytest.raises(
        DataError,
        match=r"'verdict'; give the column of the examples with --text-column or --image-column "
        r"\('comments', 'say'\)",
    ):
        loader.load(DataOptions(data=path, seed=0, label_column="verdict"))
    data = loader.load(
        DataOptions(data=path, seed=0, label_column="verdict", text_column="comments")
    )
    assert texts(data) == dict(LINES)
    with pytest.raises(
        DataError,
        match=r"a.csv: no column 'sad' for --text-column, found 'comments', 'stars', 'say', 'ver",
    ):
        loader.load(DataOptions(data=path, seed=0, label_column="verdict", text_column="sad"))


def test_numeric_classes_are_sorted_as_numbers(tmp_path: Path) -> None:
    make_parquet(tmp_path / "a.parquet", {"label": [n % 11 for n in range(44)], "text": ["x"] * 44})
    assert loader.load(DataOptions(data=str(tmp_path), seed=0)).spec.classes == tuple(
        map(str, range(11))
    )


def test_class_names_of_hugging_face_are_read(tmp_path: Path) -> None:
    feature = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    picture = {"bytes": encoded(np.zeros((5, 4), np.uint8)), "path": "x.png"}
    columns = {"image": [picture] * 20, "label": [n % 2 for n in range(20)]}
    make_parquet(tmp_path / "train-00000-of-00001.parquet", columns, metadata)
    spec = loader.load(DataOptions(data=str(tmp_path), seed=0)).spec
    assert (spec.classes, spec.shape) == (("cat", "dog"), (5, 4, 1))


def test_image_paths_are_relative_to_the_table_also_in_a_bucket(
    tmp_path: Path, bucket: str
) -> None:
    pictures = {f"images/{n}.png": encoded(np.full((5, 4), n, np.uint8)) for n in range(20)}
    table = rows(lines=[(name, str(n % 2)) for n, name in enumerate(pictures)], header="path,class")
    files = {**pictures, "data.csv": table}
    write(tmp_path, files)
    storage.write_all(storage.folder(f"{bucket}/d"), {name: tmp_path / name for name in files})
    local = loader.load(DataOptions(data=f"{tmp_path}/data.csv", seed=0))
    assert local.spec.shape == (5, 4, 1)
    assert sorted(local.train.examples[:, 0, 0, 0] % 2) == sorted(local.train.labels)
    for path in (str(tmp_path), f"{bucket}/d", f"{bucket}/d/data.csv", f"{bucket}/d/da*.csv"):
        assert loader.load(DataOptions(data=path, seed=0)).fingerprint == local.fingerprint


def test_errors_name_an_image_of_a_table_by_the_path_of_the_user(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the path of a temporary copy, and with the folder once."""
    table = rows(lines=[("pictures/1.png", "1"), ("pictures/1.png", "2")], header="image,label")
    write(tmp_path / "d", {"data.csv": table, "pictures/1.png": b"no image"})
    files = {f"d/{name}": tmp_path / "d" / name for name in ("data.csv", "pictures/1.png")}
    storage.write_all(storage.folder(bucket), files)
    monkeypatch.chdir(tmp_path)
    paths = ("d", "d/data.csv", f"{bucket}/d", f"{bucket}/d/data.csv")
    pictures = [path.removesuffix("/data.csv") + "/pictures/1.png" for path in paths]
    for path, picture in zip(paths, pictures, strict=True):
        with pytest.raises(
            DataError, match=f"^{picture}: not an image, or a damaged one: found 8 by"
        ):
            loader.load(DataOptions(data=path, seed=0))
    missing = "none of the files that column 'image' names is there, for example 'pictures/1.png'"
    missing += "|line 2: no such file: pictures/1.png"
    (tmp_path / "d/pictures/1.png").unlink()
    storage.folder(bucket).remove("d/pictures/1.png")
    for path, picture in zip(paths, pictures, strict=True):
        with pytest.raises((DataError, StorageError), match=f"^{picture}: no such file|{missing}"):
            loader.load(DataOptions(data=path, seed=0))


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.png", "a/../../secret.png"])
def test_a_table_from_a_bucket_cannot_read_local_files(
    tmp_path: Path, bucket: str, path: str
) -> None:
    write(tmp_path, {"data.csv": rows(lines=[(path, "1"), (path, "2")], header="image,label")})
    storage.folder(f"{bucket}/d").write("data.csv", tmp_path / "data.csv")
    for data in (f"{bucket}/d", f"{bucket}/d/data.csv"):
        with pytest.raises(
            DataError, match=re.escape(f"line 2: {path}: expected gs://bucket/path")
        ):
            loader.load(DataOptions(data=data, seed=0, image_column="image"))


def test_rows_without_a_label_or_example_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    columns = {
        "text": [None, *[text for text, _ in LINES]],
        "label": [1.0, None, *[float(n % 2) for n in range(39)]],
    }
    make_parquet(tmp_path / "a.parquet", columns)
    with caplog.at_level(logging.WARNING, "trainer"):
        data = loader.load(DataOptions(data=str(tmp_path), seed=0))
    assert (data.spec.classes, sum(data.spec.sizes.values())) == (("0", "1"), 39)
    assert [record.getMessage() for record in caplog.records] == [
        "left out 2 of 41 rows without a label or an example: a.parquet: row 1: nothing in column "
        "'text'; a.parquet: row 2: no label"
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.csv": b""}, "a.csv: no rows"),
        ({"a.csv": b"text,label\n"}, "a.csv: no rows"),
        ({"a.csv": b"text,label\na,b,c\n"}, "a.csv: line 2: found 3 cells, expected 2"),
        ({"a.csv": b"text,label\n" + b"\xf7\xff\xf3,b\n" * 9}, "a.csv: not UTF-8, UTF-16 or"),
        (
            {"a.csv": b"label,label\na,b\n"},
            r"a.csv: line 1: found the column 'label' more than once \(columns 1 and 2\)",
        ),
        ({"a.csv": b"a good film,pos\na bad one,neg\n"}, "or --no-header, if the first line"),
        (
            {"a.csv": rows(lines=[*LINES, ("x", "")] * 2 + [("y", "")] * 9)},
            "a.csv: line 62: no label.*; expected at most 0.1 of all",
        ),
        (
            {"a.csv": rows(lines=[("x.png", "1"), ("y.png", "2")])},
            "a.csv: none of the files that column 'text' names is there, for example 'x.png'",
        ),
        ({"a.parquet": b"PAR1 and no more PAR1"}, "a.parquet: not a Parquet file, or a damaged"),
        ({"a.jsonl": b'{"text": "a", "label": "b"}\n[]\n'}, "a.jsonl: line 2: found list, expect"),
({"a.jsonl": b'{"text": true, "label": "b"}\n'}, "none of them holds texts, images or only"),
        ({"a.jsonl": b'["good", "pos"]\n' * 9}, "a.jsonl: line .: found list, expected a JSON obj"),
        ({"a.xlsx": b"PK"}, "Save a.xlsx as CSV first"),
        ({"a.zip": b"PK"}, "Unpack a.zip first"),
        (
            {"train.csv": rows(), "test.csv": rows(lines=[("x", "meh")])},
            "the test split has a class 'meh' that the training split does not have: neg, pos",
        ),
        ({"test.csv": rows(), "val.csv": rows()}, "no training split, found validation and test"),
    ],
)  # fmt: skip
def test_the_error_says_why_data_is_not_trainable(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    with pytest.raises((DataError, StorageError), match=message) as caught:
        loader.load(DataOptions(data=write(tmp_path, files), seed=0))
    assert str(caught.value).startswith(str(tmp_path))
