"""Prediction on the files that a run was trained on reads the very examples of the training."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import scipy.sparse
from PIL import Image
from pyarrow import parquet

from tests.kills import write_idx
from trainer import storage
from trainer.config import DataOptions
from trainer.data import convert, loader
from trainer.data.dataset import Dataset, Source
from trainer.data.inputs import InputSignature
from trainer.errors import UsageError
from trainer.inference.predict.items import Item
from trainer.inference.predict.reader import Reader

WORDS = (("good warm", "pos"), ("bad dull", "neg"))
ROWS = [
    {"review": f"a {words} film, number {n}", "sentiment": label}
    for n in range(20) for words, label in WORDS
]  # fmt: skip


def delimited(rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def make_csv(folder: Path) -> Path:
    (folder / "a.csv").write_text(delimited(ROWS))
    return folder / "a.csv"


def make_tsv(folder: Path) -> Path:
    (folder / "a.tsv").write_text(delimited(ROWS, "\t"))
    return folder / "a.tsv"


def make_semicolons(folder: Path) -> Path:
    (folder / "a.csv").write_text(delimited(ROWS, ";"))
    return folder / "a.csv"


def make_tabbed_text(folder: Path) -> Path:
    (folder / "a.txt").write_text(delimited(ROWS, "\t"))
    return folder / "a.txt"


def make_gzipped(folder: Path) -> Path:
    (folder / "a.csv.gz").write_bytes(gzip.compress(delimited(ROWS).encode()))
    return folder / "a.csv.gz"


def make_without_header(folder: Path) -> Path:
    lines = (f'"{n % 2 + 1}","{row["review"]}"' for n, row in enumerate(ROWS))
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return folder / "train.csv"


def make_latin1(folder: Path) -> Path:
    rows = [{**row, "review": f"{row['review']} à la carte"} for row in ROWS]
    (folder / "a.csv").write_bytes(delimited(rows).encode("cp1252"))
    return folder / "a.csv"


def make_utf16(folder: Path) -> Path:
    (folder / "a.csv").write_text(delimited(ROWS), encoding="utf-16")
    return folder / "a.csv"


def make_json_lines(folder: Path) -> Path:
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return folder / "a.jsonl"


def make_nested_json(folder: Path) -> Path:
    rows = [{"data": {"text": row["review"]}, "label": row["sentiment"]} for row in ROWS]
    (folder / "a.json").write_text(json.dumps({"version": 1, "data": rows}))
    return folder / "a.json"


def make_parquet_splits(folder: Path) -> Path:
    (folder / "data").mkdir()
    for name, rows in (("train-00000-of-00001", ROWS[8:]), ("test-00000-of-00001", ROWS[:8])):
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"data/{name}.parquet")
    (folder / "dataset_info.json").write_text('{"features": {}}')
    (folder / "README.md").write_text("# A data set")
    return folder


def make_arrow(folder: Path) -> Path:
    table = pyarrow.Table.from_pylist(ROWS)
    with pyarrow.ipc.new_stream(folder / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    return folder / "a.arrow"


def make_fast_text(folder: Path) -> Path:
    lines = (f"__label__{row['sentiment']} {row['review']}" for row in ROWS)
    (folder / "train.txt").write_text("\n".join(lines))
    return folder / "train.txt"


def make_tables_beside_others(folder: Path) -> Path:
    """A folder as of Kaggle: the test table has no labels, another no texts."""
    (folder / "train.csv").write_text(delimited(ROWS))
    (folder / "sample_submission.csv").write_text("id,sentiment\n1,pos\n2,neg\n")
    (folder / "readme.txt").write_text("These are reviews.\nOf films.\n")
    return folder


def make_text_files(folder: Path) -> Path:
    for _, label in WORDS:
        lines = (row["review"] for row in ROWS if row["sentiment"] == label)
        (folder / f"{label}.txt").write_text("\n\n".join(lines))
    (folder / "classes.txt").write_text("pos\nneg\n")
    (folder / "README.txt").write_text("Reviews of films.\n")
    return folder


def make_text_files_latin1(folder: Path) -> Path:
    make_text_files(folder)
    for _, label in WORDS:
        file = folder / f"{label}.txt"
        file.write_bytes(file.read_text().replace("film", "café à la carte").encode("cp1252"))
    return folder


def make_text_folders(folder: Path) -> Path:
    for number, row in enumerate(ROWS):
        file = folder / row["sentiment"] / f"{number}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"From: someone\n\n{row['review']}\nand more\n")
    (folder / "LICENSE").write_text("Free.")
    return folder


def pixels(number: int) -> Any:
    image = np.full((8, 8, 3), 10 * (number % 20) + 5, np.uint8)
    image[: 1 + number % 7, :, number % 3] = 255
    return image


def save_images(folder: Path) -> list[str]:
    names = []
    for number in range(20):
        names.append(f"{'ab'[number % 2]}/{number:02}.png")
        (folder / names[-1]).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(number)).save(folder / names[-1])
    return names


def make_image_folders(folder: Path) -> Path:
    save_images(folder)
    (folder / "labels.csv").write_text("number,kind\n1,a\n2,b\n")
    (folder / "readme.txt").write_text("Pictures.\n")
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf")
    return folder


def make_images_of_many_kinds(folder: Path) -> Path:
    """Images of several sizes, modes and formats, some with transparency or 16 bits."""
    random = np.random.default_rng(0)
    for number in range(20):
        height, width = 9 + number, 24 - number % 5
        noise = random.integers(0, 256, [height, width, 4], np.uint8)
        image = Image.fromarray(noise).convert(["RGB", "RGBA", "L", "P", "LA"][number % 5])
        name = f"{'ab'[number % 2]}/{number:02}.{'webp' if number % 5 == 0 else 'png'}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)
    deep = (noise[..., 0].astype(np.uint16) * 257) % 65521
    Image.fromarray(deep).save(folder / "a/deep.png")
    Image.fromarray(deep.T.copy()).save(folder / "b/deep.png")
    return folder


def make_image_table(folder: Path) -> Path:
    names = save_images(folder / "images")
    rows = [{"file": name, "kind": name[0]} for name in names]
    (folder / "labels.csv").write_text(delimited(rows))
    return folder


def make_image_parquet(folder: Path) -> Path:
    names = save_images(folder / "images")
    rows = [
        {
            "image": {"bytes": (folder / "images" / name).read_bytes(), "path": name},
            "label": name[0],
        }
        for name in names
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "a.parquet")
    return folder / "a.parquet"


def make_pixel_columns(folder: Path) -> Path:
    rows = [
        {"label": n % 2} | {f"pixel{i}": (n * i) % 256 for i in range(64)} for n in range(1, 21)
    ]
    (folder / "train.csv").write_text(delimited(rows))
    return folder / "train.csv"


def make_pixels_without_header(folder: Path) -> Path:
    text = make_pixel_columns(folder).read_text()
    (folder / "train.csv").write_text(text.split("\n", 1)[1])
    return folder / "train.csv"


def make_number_columns(folder: Path) -> Path:
    rows = [{"id": n, "width": n / 7, "height": -n / 3, "kind": "ab"[n % 2]} for n in range(1, 21)]
    (folder / "a.csv").write_text(delimited(rows))
    return folder / "a.csv"


def make_list_column(folder: Path) -> Path:
    rows = [{"embedding": [n / 7, -n / 3, 1.5], "label": "ab"[n % 2]} for n in range(1, 21)]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "a.jsonl"


def make_npz(folder: Path) -> Path:
    x = np.stack([pixels(number) for number in range(20)])
    y = np.arange(20) % 2
    np.savez(folder / "a.npz", x_train=x[:12], y_train=y[:12], x_test=x[12:], y_test=y[12:])
    return folder / "a.npz"


def make_sparse(folder: Path) -> Path:
    matrix = scipy.sparse.csr_array(np.arange(60).reshape(20, 3) % 5)
    parts = {name: getattr(matrix, name) for name in ("shape", "data", "indices", "indptr")}
    np.savez(folder / "a.npz", format="csr", labels=np.arange(20) % 2, **parts)
    return folder / "a.npz"


def make_pickle(folder: Path) -> Path:
    x, y = np.arange(60).reshape(20, 3) / 7, np.arange(20) % 2
    (folder / "a.pkl").write_bytes(pickle.dumps([x[:12], y[:12], x[12:], y[12:]]))
    return folder / "a.pkl"


def make_idx(folder: Path) -> Path:
    x = np.stack([pixels(number)[..., 0] for number in range(20)])
    y = (np.arange(20) % 2).astype(np.uint8)
    for name, rows in (("train", slice(12)), ("t10k", slice(12, 20))):
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", x[rows])
        write_idx(folder / f"{name}-labels-idx1-ubyte.gz", y[rows])
    return folder


def make_shards(folder: Path) -> Path:
    (folder / "images").mkdir()
    save_images(folder / "images")
    convert.convert(str(folder / "images"), str(folder / "shards"), DataOptions(seed=0))
    return folder / "shards"


MAKERS: list[Callable[[Path], Path]] = [
    value for name, value in list(globals().items()) if name.startswith("make_")
]


def train_data(path: Path | str) -> tuple[Dataset, Source]:
    data = loader.load(DataOptions(data=str(path), seed=0, allow_pickle=True))
    assert data.source is not None
    # As it is read from a run's metrics.json.
    return data, Source.from_dict(json.loads(json.dumps(dataclasses.asdict(data.source))))


def read_items(reader: Reader, *paths: Path | str) -> list[Item]:
    return [item for item in reader.items(list(map(str, paths))) if item is not None]


def keys(examples: Any) -> list[Any]:
    return sorted(
        str(example) if np.ndim(example) == 0 else np.asarray(example).tobytes()
        for example in examples
    )


def check_same_examples(data: Dataset, items: list[Item]) -> None:
    assert [item for item in items if item.error] == []
    assert len({item.name for item in items}) == len(items)
    expected = np.concatenate([data.train.array, data.test.array])
    assert keys(item.example for item in items) == keys(expected)


@pytest.mark.parametrize("make", MAKERS)
def test_prediction_reads_the_examples_of_the_training(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = make(tmp_path)
    data, source = train_data(path)
    reader = Reader(InputSignature.from_spec(data.spec), source, allow_pickle=True)
    reader.check([str(path)])
    check_same_examples(data, read_items(reader, path))


@pytest.mark.parametrize(
    "make", [make_csv, make_tables_beside_others, make_image_table, make_text_folders, make_npz]
)
def test_a_bucket_is_read_like_a_folder(
    make: Callable[[Path], Path], tmp_path: Path, bucket: str
) -> None:
    path = make(tmp_path)
    files = {
        str(file.relative_to(tmp_path)): file for file in tmp_path.rglob("*") if file.is_file()
    }
    storage.write_all(storage.folder(f"{bucket}/data"), files)
    remote = f"{bucket}/data/{path.relative_to(tmp_path)}".removesuffix("/.")
    data, source = train_data(remote)
    items = read_items(Reader(InputSignature.from_spec(data.spec), source), remote)
    check_same_examples(data, items)
    assert all(item.name.startswith(f"{bucket}/data/") for item in items)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """Reads for a model of the texts in the column `review`."""
    folder = tmp_path / "training"
    folder.mkdir()
    data, source = train_data(make_csv(folder))
    return Reader(InputSignature.from_spec(data.spec), source)


@pytest.mark.parametrize(
    "make",
    [make_tsv, make_semicolons, make_tabbed_text, make_gzipped, make_json_lines, make_arrow],
)
def test_tables_in_other_formats_are_read_by_the_columns_of_the_run(
    make: Callable[[Path], Path], reader: Reader, tmp_path: Path
) -> None:
    path = make(tmp_path)
    items = read_items(reader, path)
    assert [str(item.example) for item in items] == [row["review"] for row in ROWS]
    assert items[1].name in (f"{path}:2", f"{path}:3")


def test_tables_without_labels_and_in_another_order_are_read(
    reader: Reader, tmp_path: Path
) -> None:
    file = tmp_path / "new.csv"
    file.write_text('id,more,review\n1,x,"one\ntwo"\n2,y,\n3\n4,z,last\n')
    items = read_items(reader, file)
    assert [(item.name.removeprefix(f"{tmp_path}/"), item.error) for item in items] == [
        ("new.csv:2", ""),
        ("new.csv:4", "nothing in column 'review'"),
        ("new.csv:5", "found 1 cells, expected 3 as in the other rows"),
        ("new.csv:6", ""),
    ]
    assert [str(items[0].example), str(items[3].example)] == ["one\ntwo", "last"]


def test_text_files_have_one_text_per_line(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("one, two\n\nthree; four\n")
    items = read_items(reader, tmp_path / "new.txt")
    assert [(item.name[-9:], str(item.example)) for item in items] == [
        ("new.txt:1", "one, two"), ("new.txt:3", "three; four"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "id,text\n1,one\n", "found the columns 'id', 'text', expected 'review', as in "
         "training; name it with --column"),
        ("a.tsv", "id\ttext\n1\tone\n", "found the columns 'id', 'text', expected 'review'"),
        ("a.jsonl", '{"id": 1, "txt": "one"}\n' * 9, "no field 'review', found 'id', 'txt'; name "
         "the field with --column"),
        ("a.csv", "review,review\none,two\n", "found the column 'review' 2 times"),
    ],
)  # fmt: skip
def test_a_table_that_lacks_the_column_is_refused(
    reader: Reader, tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    (item,) = read_items(reader, tmp_path / name)
    assert item.name == str(tmp_path / name)
    assert message in item.error


def test_a_column_that_the_user_names_is_read_or_refused(reader: Reader, tmp_path: Path) -> None:
    reader = dataclasses.replace(reader, column="text")
    (tmp_path / "a.csv").write_text("review;text\none;two\n")
    (item,) = read_items(reader, tmp_path / "a.csv")
    assert str(item.example) == "two"
    (tmp_path / "b.csv").write_text("review;more\none;two\n")
    (item,) = read_items(reader, tmp_path / "b.csv")
    assert item.error == "found the columns 'more', 'review', expected 'text'" or (
        item.error == "found the columns 'review', 'more', expected 'text'"
    )
    (tmp_path / "c.txt").write_text("one\ntwo\n")
    (item,) = read_items(reader, tmp_path / "c.txt")
    assert item.error == "found no table, expected one with the column 'text' of --column"
    image = InputSignature(kind="image", shape=(8, 8, 3), dtype="uint8", low=0, high=255)
    with pytest.raises(UsageError, match="expected one with the column 'text' of --column"):
        Reader(image, column="text").check(["a.png"])


def test_a_table_without_a_header_must_be_as_in_training(tmp_path: Path) -> None:
    data, source = train_data(make_without_header(tmp_path))
    reader = Reader(InputSignature.from_spec(data.spec), source)
    for content, message in (
        ("label,text\n1,one\n", "found a header with 'label', 'text', expected none"),
        ("one\ntwo\n", "found 1 columns, expected 2 as in training"),
    ):
        (tmp_path / "new.csv").write_text(content)
        (item,) = read_items(reader, tmp_path / "new.csv")
        assert message in item.error
    (tmp_path / "new.csv").write_text('2,"only one row"\n')
    (item,) = read_items(reader, tmp_path / "new.csv")
    assert str(item.example) == "only one row"
    reader = dataclasses.replace(reader, column="1")
    (tmp_path / "new.csv").write_text("one\ntwo\n")
    assert [str(item.example) for item in read_items(reader, tmp_path / "new.csv")] == [
        "one", "two",
    ]  # fmt: skip


def test_numbers_are_found_by_the_names_of_their_columns(tmp_path: Path) -> None:
    data, source = train_data(make_number_columns(tmp_path))
    reader = Reader(InputSignature.from_spec(data.spec), source)
    for content, expected in (
        ("height,width\n-2,1\n", [1, -2]),
        ("kind,height,id,width\na,-2,7,1\n", [1, -2]),
        ("1,-2\n", [1, -2]),
    ):
        (tmp_path / "new.csv").write_text(content)
        (item,) = read_items(reader, tmp_path / "new.csv")
        np.testing.assert_array_equal(item.example, np.float32(expected))
    for content in ("w,h\n1,-2\n", "height,depth\n1,2\n"):  # The order is not known.
        (tmp_path / "new.csv").write_text(content)
        (item,) = read_items(reader, tmp_path / "new.csv")
        assert "expected 'width'" in item.error
    (tmp_path / "new.csv").write_text("height,width\n-2,1\nx,1\n,1\n3,4\n")
    items = read_items(reader, tmp_path / "new.csv")
    assert [item.error for item in items] == [
        "", "found 'x', expected a list of 2 numbers", "nothing in column 'height'", "",
    ]  # fmt: skip


def test_unlabelled_arrays_are_read(tmp_path: Path) -> None:
    data, source = train_data(make_npz(tmp_path))
    x = data.test.array
    np.savez(tmp_path / "new.npz", images=x, ids=np.arange(len(x)))
    items = read_items(Reader(InputSignature.from_spec(data.spec), source), tmp_path / "new.npz")
    assert [item.name for item in items[:2]] == [
        f"{tmp_path}/new.npz:images:1", f"{tmp_path}/new.npz:images:2",
    ]  # fmt: skip
    assert keys(item.example for item in items) == keys(x)


def test_a_file_in_utf8_is_not_read_in_the_encoding_of_the_training(tmp_path: Path) -> None:
    rows = [{**row, "review": f"{row['review']} фильм"} for row in ROWS]
    (tmp_path / "a.csv").write_bytes(delimited(rows).encode("cp1251"))
    data = loader.load(DataOptions(data=str(tmp_path / "a.csv"), seed=0, encoding="cp1251"))
    reader = Reader(InputSignature.from_spec(data.spec), data.source)
    check_same_examples(data, read_items(reader, tmp_path / "a.csv"))
    (tmp_path / "b.csv").write_text(delimited(rows), encoding="utf-8")
    check_same_examples(data, read_items(reader, tmp_path / "b.csv"))
