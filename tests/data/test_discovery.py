"""Tests of the one decision about what a folder holds."""

from __future__ import annotations

import datetime
import gzip
import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from tests.data.formats.test_images import encoded
from trainer.config import ReadOptions
from trainer.data import loader
from trainer.data.dataset import RawSplits
from trainer.errors import DataError, TrainerError

TEXTS = [(f"a film that is {word} {n}", label) for n in range(15) for word, label in
         (("good", "pos"), ("bad", "neg"))]  # fmt: skip
CSV = "text,label\n" + "".join(f"{text},{label}\n" for text, label in TEXTS)
TEST_CSV = "text,label\na good one,pos\na bad one,neg\n"


def write(root: Path, files: Mapping[str, str | bytes]) -> str:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(root)


def read(root: Path, files: Mapping[str, str | bytes], **options: Any) -> RawSplits:
    return loader.read(write(root, files), ReadOptions(**options))


def sizes(raw: RawSplits) -> dict[str, int]:
    splits = {"train": raw.train, "validation": raw.validation, "test": raw.test}
    return {name: len(split[1]) for name, split in splits.items() if split is not None}


def picture(number: int) -> bytes:
    return encoded(np.full((5, 4, 3), number, np.uint8))


def pictures(*folders: str, suffix: str = ".png") -> dict[str, bytes]:
    return {f"{folder}/{n}{suffix}": picture(n) for folder in folders for n in range(4)}


def parquet_bytes(path: Path, columns: dict[str, Any]) -> bytes:
    parquet.write_table(pyarrow.table(columns), path)
    return path.read_bytes()


@pytest.mark.parametrize(
    "others",
    [
        {"readme.txt": "what it is\nwhere it is from\n", "classes.txt": "pos\nneg\n"},
        {"README.md": "x", "LICENSE": "x", "requirements.txt": "pandas\n"},
        {"categories.json": '["pos", "neg"]', "dataset_info.json": '{"splits": {"train": 1}}'},
        {"notes/a.txt": "one\n", "notes/b.txt": "two\n"},
        {"sample_submission.csv": "id,label\n1,pos\n2,pos\n3,pos\n"},
    ],
)
def test_files_that_are_no_data_beside_tables_are_left_out_and_named(
    tmp_path: Path, others: dict[str, str]
) -> None:
    raw = read(tmp_path, {"train.csv": CSV, "test.csv": TEST_CSV, **others})
    assert (raw.classes, sizes(raw)) == (("neg", "pos"), {"train": 30, "test": 2})
    assert raw.source is not None
    assert raw.source.format == "table"
    assert raw.source.summary == "CSV with texts in column 'text', labels in 'label'"
    assert all(name in raw.source.left_out for name in others)


def test_class_folders_win_over_lists_beside_them(tmp_path: Path) -> None:
    lists = {"urls_a.txt": "x\ny\n", "urls_b.txt": "x\ny\n", "imdb.vocab": "x\n"}
    texts = {f"{name}/{n}.txt": f"some text {n}" for name in ("a", "b") for n in range(3)}
    raw = read(tmp_path, lists | texts)
    assert (raw.classes, len(raw.train[0])) == (("a", "b"), 6)
    assert raw.source is not None
    assert "urls_a.txt" in raw.source.left_out


def test_texts_beside_images_are_left_out(tmp_path: Path) -> None:
    captions = {f"{name}/{n}.txt": "0 0.5 0.5" for name in ("cat", "dog") for n in range(4)}
    raw = read(tmp_path, pictures("cat", "dog") | captions | {"cat/list.txt": "x"})
    assert raw.train[0].shape == (8, 5, 4, 3)
    assert raw.source is not None
    assert "(no image)" in raw.source.left_out


def test_a_table_that_names_the_images_of_folders_is_read(tmp_path: Path) -> None:
    """As Hugging Face's imagefolder: one metadata.csv in each split."""
    files: dict[str, str | bytes] = {}
    for split in ("train", "test"):
        files |= {f"{split}/{n:04}.png": picture(n) for n in range(6)}
        lines = "".join(f"{n:04}.png,{'ab'[n % 2]}\n" for n in range(6))
        files[f"{split}/metadata.csv"] = f"file_name,label\n{lines}"
    raw = read(tmp_path, files)
    assert (raw.classes, sizes(raw)) == (("a", "b"), {"train": 6, "test": 6})


def test_a_table_without_labels_beside_class_folders_is_left_out(tmp_path: Path) -> None:
    raw = read(tmp_path, pictures("a", "b") | {"sizes.csv": "width,height\n5,4\n5,4\n"})
    assert raw.classes == ("a", "b")
    assert raw.source is not None
    assert "sizes.csv" in raw.source.left_out


def test_two_equally_good_readings_are_refused_with_both_named(tmp_path: Path) -> None:
    files = pictures("a", "b") | {"reviews.csv": CSV.encode()}
    message = (
        "found two kinds of data, and only you know which is meant: --data-format table reads CSV "
        "with texts in column 'text', labels in 'label' .1 files.; --data-format class_folders "
        "reads images in one folder per class .8 files."
    )
    with pytest.raises(DataError, match=message):
        read(tmp_path, files)
    assert read(tmp_path, files, data_format="table").classes == ("neg", "pos")
    assert read(tmp_path, files, data_format="class_folders").classes == ("a", "b")
    with pytest.raises(DataError, match="--data-format idx: found a/0.png, "):
        read(tmp_path, files, data_format="idx")


def test_tables_of_other_columns_are_left_out_or_refused(tmp_path: Path) -> None:
    unlabelled = "id,text\n100,one text\n101,another text\n"
    raw = read(tmp_path / "1", {"train.csv": CSV, "test.csv": unlabelled})
    assert sizes(raw) == {"train": 30}
    assert raw.source is not None
    assert raw.source.left_out == "test.csv (no column 'label')"
    with pytest.raises(DataError, match=r"tables of different columns: a.csv, b.csv. Give one of"):
        read(tmp_path / "2", {"a.csv": CSV, "b.csv": CSV.replace("text,", "review,")})


def test_splits_are_in_names_of_files_folders_or_cells(tmp_path: Path) -> None:
    columns = {"text": [text for text, _ in TEXTS], "label": [label for _, label in TEXTS]}
    content = parquet_bytes(tmp_path / "x.parquet", columns)
    expected = {"train": 30, "validation": 30, "test": 30}
    for number, names in enumerate((
        ("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet",
         "data/test-00000-of-00001.parquet"),
        ("train/0000.parquet", "validation/0000.parquet", "test/0000.parquet"),
        ("x_train.parquet", "x_dev.parquet", "x_test.parquet"),
    )):  # fmt: skip
        assert sizes(read(tmp_path / str(number), dict.fromkeys(names, content))) == expected
    for name, values in (
        ("split", ("train", "validation", "test")),
        ("Usage", ("Training", "PublicTest", "PrivateTest")),
        ("ml_use", ("TRAINING", "VALIDATION", "TEST")),
    ):
        lines = (f"{text},{label},{values[n // 10]}\n" for n, (text, label) in enumerate(TEXTS))
        raw = read(tmp_path / name, {"a.csv": f"text,label,{name}\n" + "".join(lines)})
        assert sizes(raw)["train"] == 10
        assert sum(sizes(raw).values()) == 30
    lines = (f"{text},{label},{n > 20}\n" for n, (text, label) in enumerate(TEXTS))
    raw = read(tmp_path / "fastai", {"a.csv": "text,label,is_valid\n" + "".join(lines)})
    assert sizes(raw) == {"train": 21, "validation": 9}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps([{"text": text, "label": label} for text, label in TEXTS])),
        ("a.json", "\n".join(json.dumps({"text": t, "label": n}) for t, n in TEXTS)),
        ("a.json", json.dumps({"version": 1, "data": [{"text": t, "label": n} for t, n in TEXTS]})),
        ("a.ndjson", "\n".join(json.dumps({"text": t, "label": n}) for t, n in TEXTS)),
        ("a.jsonl", "\n".join(json.dumps({"data": {"text": t}, "meta": {"label": n}})
                              for t, n in TEXTS)),
        ("a.csv.gz", gzip.compress(CSV.encode())),
        ("a.csv", CSV.replace(",", "|")),
        ("a.data", CSV),
        ("a.txt", "\n".join(f"{label}\t{text}" for text, label in TEXTS)),
        ("a.txt", "\n".join(f"__label__{label} {text}" for text, label in TEXTS)),
        ("a.csv", "sep=;\n" + CSV.replace(",", ";")),
        ("a.csv", "# made by a tool\n" + CSV),
        ("a.csv", CSV.replace("\n", "\r")),
        ("a.csv", CSV.encode("utf-16")),
        ("a.csv", CSV.replace("text,label", "text,label,,").replace("\n", ",,\n")
                     .replace(",,,,", ",,", 1)),
    ],
)  # fmt: skip
def test_texts_are_read_however_they_are_written(
    tmp_path: Path, name: str, content: str | bytes
) -> None:
    raw = read(tmp_path, {name: content})
    assert raw.classes == ("neg", "pos")
    pairs = {text: raw.classes[label] for text, label in zip(*raw.train, strict=True)}
    assert pairs == dict(TEXTS)


def test_images_are_named_in_many_ways(tmp_path: Path) -> None:
    names = [f"{n:05}.jpg" for n in range(10)]
    content = {f"images/{name}": picture(n) for n, name in enumerate(names)}
    composed = unicodedata.normalize("NFC", "café")
    for number, (header, cells) in enumerate((
        ("image,label", [f"images/{name}" for name in names]),
        ("image,label", names),  # The folder is left out.
        ("id,breed", [name.removesuffix(".jpg") for name in names]),
        ("image,label", [f"images\\{name}" for name in names]),
        ("image, label", [f" images/{name}" for name in names]),
        ("image,label", [str(tmp_path / "0/images" / name) for name in names]),
    )):  # fmt: skip
        lines = "".join(f"{cell},{'ab'[n % 2]}\n" for n, cell in enumerate(cells))
        raw = read(tmp_path / str(number), content | {"labels.csv": f"{header}\n{lines}"})
        assert raw.train[0].shape == (10, 5, 4, 3)
        assert raw.classes == ("a", "b")
    lines = "".join(f"{composed}{n}.png,{'ab'[n % 2]}\n" for n in range(4))
    decomposed = {unicodedata.normalize("NFD", f"{composed}{n}.png"): picture(n) for n in range(4)}
    raw = read(tmp_path / "u", decomposed | {"labels.csv": f"image,label\n{lines}"})
    assert len(raw.train[0]) == 4


def test_missing_images_are_left_out_up_to_a_tenth(tmp_path: Path) -> None:
    lines = "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(11))
    files = {f"{n}.png": picture(n) for n in range(10)} | {"a.csv": f"image,label\n{lines}"}
    assert len(read(tmp_path, files).train[0]) == 10
    with pytest.raises(DataError, match=r"1 of 11 rows .*a.csv: line 12: no such file: 10.png"):
        read(tmp_path, files, max_bad=0.0)


@pytest.mark.parametrize(
    ("content", "shape", "classes"),
    [
        # Numbers in columns.
        ("a,b,species\n" + "".join(f"{n / 7},{-n},{'xy'[n % 2]}\n" for n in range(20)), (2,), "xy"),
        # Pixels in columns, with and without a header.
        ("label," + ",".join(f"pixel{n}" for n in range(64)) + "\n"
         + "".join(f"{n % 2}," + ",".join(["7"] * 64) + "\n" for n in range(20)), (8, 8, 1), "01"),
        ("".join(f"{n % 2}," + ",".join([str(9 * n)] * 64) + "\n" for n in range(20)),
         (8, 8, 1), "01"),
        # Pixels in one column, as of FER-2013.
        ("emotion,pixels\n" + "".join(f"{n % 2},{' '.join(['7'] * 64)}\n" for n in range(20)),
         (8, 8, 1), "01"),
    ],
)  # fmt: skip
def test_numbers_in_columns_are_vectors_or_images(
    tmp_path: Path, content: str, shape: tuple[int, ...], classes: str
) -> None:
    raw = read(tmp_path, {"a.csv": content})
    assert raw.train[0].shape == (20, *shape)
    assert raw.classes == tuple(classes)


def test_lists_of_numbers_are_vectors(tmp_path: Path) -> None:
    lines = [{"features": [n / 3, 1.5, -2], "label": n % 2} for n in range(20)]
    raw = read(tmp_path, {"a.jsonl": "\n".join(map(json.dumps, lines))})
    assert raw.train[0].shape == (20, 3)
    assert raw.train[0].dtype == np.float32


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,label\n" + "".join(f"{n},{'ab'[n % 2]}\n" for n in range(20)),
         "found the columns 'id', 'label'; none of them holds texts, images or only numbers"),
        ("id_code,diagnosis\n" + "".join(f"{n * 7919:012x},{n % 2}\n" for n in range(20)),
         "'id_code' holds neither texts nor paths of images that are there, for example '0000"),
        ("image,label\n" + "".join(f"https://x.org/{n}.png?s=3,{n % 2}\n" for n in range(20)),
         "'image' holds URLs, expected texts or paths of images: download them"),
        ("text,label\n" + "".join(f"some text {n},{n / 7}\n" for n in range(1, 40)),
         "labels such as 0.1428.*, expected classes; numbers cannot be predicted yet"),
        ('{"text": "a b", "label": ["x", "y"]}\n' * 9, "found 2 labels, expected one class"),
        ("text,label\n" + "a b,\n" * 9, "found no label in column 'label', expected labels"),
        ("text,label,text\na b,x,c\n", r"'text' more than once \(columns 1 and 3\); rename one"),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_refused_with_what_to_do(
    tmp_path: Path, content: str, message: str
) -> None:
    name = "a.jsonl" if content.startswith("{") else "a.csv"
    with pytest.raises(TrainerError, match=message):
        read(tmp_path, {name: content})


def test_the_first_row_decides_nothing_alone(tmp_path: Path) -> None:
    files = {f"images/{n}.png": picture(n) for n in range(20)}
    rows = ",cat\n" + "".join(f"images/{n}.png,{('cat', 'dog')[n % 2]}\n" for n in range(20))
    raw = read(tmp_path / "1", files | {"a.csv": f"image,label\n{rows}"})
    assert raw.train[0].shape == (20, 5, 4, 3)
    first = "please see the attached scan.png,neg\n"
    raw = read(tmp_path / "2", {"a.csv": CSV.replace("label\n", f"label\n{first}", 1)})
    assert raw.train[0].dtype == object
    lines = [{"text": text} if n == 0 else {"title": "x", "text": text, "label": label}
             for n, (text, label) in enumerate(TEXTS)]  # fmt: skip
    raw = read(tmp_path / "3", {"a.jsonl": "\n".join(map(json.dumps, lines))})
    assert len(raw.train[0]) == 29


def test_quotes_mean_what_the_writer_of_the_file_meant(tmp_path: Path) -> None:
    said = [(f'"It is {word}" he said {n}', label) for n in range(9) for word, label in
            (("good", "pos"), ("bad", "neg"))]  # fmt: skip
    tsv = "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in said)
    escaped = "text,label\n" + "".join(
        '"{}",{}\n'.format(text.replace('"', '\\"'), label) for text, label in said
    )
    for name, content in (("a.tsv", tsv), ("b.csv", escaped)):
        raw = read(tmp_path / name, {name: content})
        assert set(raw.train[0]) == {text for text, _ in said}


def test_a_quote_that_is_not_closed_costs_one_row(tmp_path: Path) -> None:
    lines = [f'"a film, {n}",{"ab"[n % 2]}\n' for n in range(40)]
    lines[5] = '"never closed,a\n'
    raw = read(tmp_path, {"a.csv": "text,label\n" + "".join(lines)})
    assert len(raw.train[0]) == 39


@pytest.mark.parametrize(
    ("labels", "classes", "warning"),
    [
        (["True", "FALSE", "TRUE", "False"], ("FALSE", "False", "TRUE", "True"), "capital letters"),
        (["pos", " pos", "neg", "neg "], ("neg", "pos"), None),
        (["1.0", "0.0"], ("0", "1"), None),
        (["001", "010"], ("001", "010"), None),
        (["a", "b", "nan"], ("a", "b", "nan"), "'nan' is a class of"),
    ],
)
def test_labels_are_classes_and_doubtful_ones_are_told(
    tmp_path: Path,
    labels: list[str],
    classes: tuple[str, ...],
    warning: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = "".join(f"some text {n},{labels[n % len(labels)]}\n" for n in range(24))
    raw = read(tmp_path, {"a.csv": f"text,label\n{rows}"})
    assert raw.classes == classes
    messages = " ".join(record.getMessage() for record in caplog.records)
    assert (warning or "") in messages
    assert bool(messages) == bool(warning)


def test_minus_one_beside_class_names_is_no_label(tmp_path: Path) -> None:
    feature = {"names": ["negative", "positive"], "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    for split, labels in (("train", [0, 1] * 10), ("test", [-1] * 6)):
        table = pyarrow.table({"sentence": [f"a b {n}" for n in range(len(labels))],
                               "label": labels})  # fmt: skip
        parquet.write_table(
            table.replace_schema_metadata(metadata), tmp_path / f"{split}-00000-of-00001.parquet"
        )
    raw = loader.read(str(tmp_path), ReadOptions())
    assert (raw.classes, sizes(raw)) == (("negative", "positive"), {"train": 20})


def test_cp1252_is_found_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = "".join(f"un café numéro {n},{'ab'[n % 2]}\n" for n in range(20))
    raw = read(tmp_path / "1", {"a.csv": f"text,label\n{rows}".encode("cp1252")})
    assert raw.train[0][0] == "un café numéro 0"
    assert "a.csv: not UTF-8: read as cp1252" in caplog.text
    russian = "".join(f"хороший фильм {n},{'ab'[n % 2]}\n" for n in range(20))
    content = f"text,label\n{russian}".encode("cp1251")
    with pytest.raises(DataError, match="give its encoding, for example --encoding cp1251"):
        read(tmp_path / "2", {"a.csv": content})
    raw = read(tmp_path / "3", {"a.csv": content}, encoding="cp1251")
    assert raw.train[0][0] == "хороший фильм 0"


def test_files_of_hugging_face_on_disk_are_read(tmp_path: Path) -> None:
    table = pyarrow.table({"text": [text for text, _ in TEXTS],
                           "label": [label for _, label in TEXTS]})  # fmt: skip
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        path = tmp_path / split / "data-00000-of-00001.arrow"
        with (
            pyarrow.OSFile(str(path), "wb") as file,
            pyarrow.ipc.new_stream(file, table.schema) as writer,
        ):
            writer.write_table(table)
        (tmp_path / split / "state.json").write_text('{"_split": "x"}')
        (tmp_path / split / "dataset_info.json").write_text('{"citation": ""}')
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    raw = loader.read(str(tmp_path), ReadOptions())
    assert sizes(raw) == {"train": 30, "test": 30}


def test_the_import_files_of_vertex_ai_have_no_header(tmp_path: Path) -> None:
    files = {f"images/{n}.jpg": picture(n) for n in range(20)}
    uses = ["training"] * 12 + ["validation"] * 4 + ["unassigned"] * 4
    rows = "".join(f"{use},images/{n}.jpg,{'ab'[n % 2]}\n" for n, use in enumerate(uses))
    raw = read(tmp_path, files | {"import.csv": rows})
    assert sizes(raw) == {"train": 16, "validation": 4}
    assert raw.classes == ("a", "b")


def test_a_table_of_a_split_names_images_of_its_own_folder(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {}
    for split, first in (("train", 0), ("test", 100)):
        files |= {f"{split}/Image_{n}.png": picture(first + n) for n in range(8)}
        rows = "".join(f"Image_{n}.png,{'ab'[n % 2]}\n" for n in range(8))
        files[f"{split.title()}ing_set.csv"] = f"filename,label\n{rows}"
    del files["Testing_set.csv"]
    raw = read(tmp_path / "1", files | {"Training_set.csv": files["Training_set.csv"]})
    assert raw.train[0].max() < 100
    both = files | {"test.csv": files["Training_set.csv"]}
    raw = read(tmp_path / "2", both)
    assert raw.test is not None
    assert raw.train[0].max() < 100
    assert raw.test[0].min() >= 100
    twice = {f"{folder}/{n}.png": picture(n) for folder in ("full", "small") for n in range(8)}
    rows = "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(8))
    with pytest.raises(DataError, match="names images both in full/ and in small/"):
        read(tmp_path / "3", twice | {"labels.csv": f"image,label\n{rows}"})


@pytest.mark.parametrize("name", ["sampleSubmission.csv", "submission.csv", "predictions.csv"])
def test_tables_to_hand_in_are_left_out(tmp_path: Path, name: str) -> None:
    raw = read(tmp_path, {"trainLabels.csv": CSV, name: CSV.replace("neg", "pos")})
    assert sizes(raw) == {"train": 30}
    assert raw.source is not None
    assert name in raw.source.left_out


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("split", ("train", "holdout"), {"train", "test"}),
        ("split", ("TRAIN", "VALIDATE"), {"train", "validation"}),
        ("split", ("tr", "te"), {"train", "test"}),
        ("data_split", ("train", "cv"), {"train", "validation"}),
        ("type", ("train", "test"), {"train", "test"}),
        ("is_valid", ("0.0", "1.0"), {"train", "validation"}),
        ("is_test", ("no", "yes"), {"train", "test"}),
        ("is_train", ("True", "False"), {"train", "test"}),
    ],
)
def test_a_column_of_splits_is_used_whatever_it_is_called(
    tmp_path: Path, column: str, values: tuple[str, str], expected: set[str]
) -> None:
    rows = "".join(f"{text},{label},{values[n > 19]}\n" for n, (text, label) in enumerate(TEXTS))
    raw = read(tmp_path, {"a.csv": f"text,label,{column}\n{rows}"})
    assert set(sizes(raw)) == expected
    assert sizes(raw)["train"] == 20


def test_a_split_that_is_not_known_is_no_training_data(tmp_path: Path) -> None:
    values = ("train", "test", "unlabeled")
    rows = "".join(f"{text},{label},{values[n % 3]}\n" for n, (text, label) in enumerate(TEXTS))
    with pytest.raises(DataError, match="found 'unlabeled' in column 'split', expected the name"):
        read(tmp_path, {"a.csv": f"text,label,split\n{rows}"})


def test_minus_one_is_no_label_beside_others(tmp_path: Path) -> None:
    rows = "".join(f"some text {n},{(0, 1, 2)[n % 3]}\n" for n in range(30)) + "a text,-1\n"
    assert read(tmp_path / "1", {"a.csv": f"text,label\n{rows}"}).classes == ("0", "1", "2")
    signs = "".join(f"some text {n},{(-1, 1)[n % 2]}\n" for n in range(30))
    assert read(tmp_path / "2", {"a.csv": f"text,label\n{signs}"}).classes == ("-1", "1")


@pytest.mark.parametrize(
    "labels", [[[1], [0], [0, 1]], ["['a', 'b']", "['a']", "['b']"], ["{'x': 1}"]]
)
def test_several_labels_are_refused_however_they_are_written(
    tmp_path: Path, labels: list[Any]
) -> None:
    lines = [{"text": f"some text {n}", "label": labels[n % len(labels)]} for n in range(24)]
    with pytest.raises(DataError, match="2 labels|labels, expected one class|is an object with"):
        read(tmp_path, {"a.jsonl": "\n".join(map(json.dumps, lines))})


def test_numbers_with_a_comma_are_no_lists(tmp_path: Path) -> None:
    rows = "".join(f'"{1 + n},005",{n / 7},{"ab"[n % 2]}\n' for n in range(20))
    with pytest.raises(DataError, match="give the column of the examples|none of them holds"):
        read(tmp_path, {"a.csv": f"a,b,label\n{rows}"})


def test_copies_of_a_table_are_read_once(tmp_path: Path) -> None:
    columns = {"text": [text for text, _ in TEXTS], "label": [label for _, label in TEXTS]}
    content = parquet_bytes(tmp_path / "x.parquet", columns)
    files = {"train.csv": CSV, "train.parquet": content, "train (1).csv": CSV,
             "train.csv.gz": gzip.compress(CSV.encode())}  # fmt: skip
    raw = read(tmp_path / "d", files)
    assert sizes(raw) == {"train": 30}
    assert raw.source is not None
    assert raw.source.left_out == (
        "train (1).csv (a copy of train.csv); train.csv.gz, train.parquet (a copy of train.csv, by "
        "its name)"
    )


def test_tables_whose_names_differ_after_a_dot_are_no_copies(tmp_path: Path) -> None:
    raw = read(tmp_path, {"set.training.csv": CSV, "set.test.csv": TEST_CSV})
    assert sizes(raw) == {"train": 30, "test": 2}


def test_a_first_line_of_numbers_is_data_though_it_has_a_known_word(tmp_path: Path) -> None:
    rows = "".join(f"{'xy'[n % 2]},{n / 7},{n / 3}\n" for n in range(20))
    raw = read(tmp_path, {"a.csv": rows}, label_column="1")
    assert raw.train[0].shape == (20, 2)


def test_the_last_word_of_a_name_says_the_split(tmp_path: Path) -> None:
    raw = read(tmp_path, {"ab_test_train.csv": CSV, "ab_test_test.csv": TEST_CSV})
    assert sizes(raw) == {"train": 30, "test": 2}


def test_folders_beside_those_of_splits_are_no_part_of_them(tmp_path: Path) -> None:
    names = [f"{top}/{name}" for top in ("train", "train_masks", "test") for name in "ab"]
    raw = read(tmp_path / "1", pictures(*names))
    assert sizes(raw) == {"train": 8, "test": 8}
    assert raw.source is not None
    assert "train_masks/" in raw.source.left_out
    sites = pictures("site1/cats", "site1/dogs", "site2/cats", "site2/dogs", "site2/birds")
    with pytest.raises(DataError, match="in each of site1, site2: several data sets"):
        read(tmp_path / "2", sites)


def test_texts_that_describe_the_data_are_no_classes(tmp_path: Path) -> None:
    files = {
        f"{split}/{axis}_{split}.txt": "1 2 3\n" for split in ("train", "test") for axis in "Xy"
    }
    others = {"activity_labels.txt": "1 WALKING\n", "features.txt": "1 tBodyAcc\n",
              "features_info.txt": "x\ny\n"}  # fmt: skip
    with pytest.raises(DataError, match="found examples directly in test, train"):
        read(tmp_path, files | others)


def test_a_column_of_times_is_not_used(tmp_path: Path) -> None:
    columns = {"text": [text for text, _ in TEXTS], "label": [label for _, label in TEXTS],
               "time": [datetime.datetime(2026, 1, 1)] * len(TEXTS)}  # fmt: skip
    content = parquet_bytes(tmp_path / "x.parquet", columns)
    assert sizes(read(tmp_path / "d", {"a.parquet": content})) == {"train": 30}


def test_one_column_of_numbers_is_a_vector(tmp_path: Path) -> None:
    rows = "".join(f"{n / 7},{'ab'[n > 9]}\n" for n in range(20))
    assert read(tmp_path, {"a.csv": f"size,label\n{rows}"}).train[0].shape == (20, 1)


def test_texts_in_folders_have_the_encoding_that_is_given(tmp_path: Path) -> None:
    files = {f"{name}/{n}.txt": f"un café {n}".encode("cp1252") for name in "ab" for n in range(3)}
    with pytest.raises(DataError, match="or give its --encoding"):
        read(tmp_path, files)
    assert "un café 0" in read(tmp_path, files, encoding="cp1252").train[0]


def test_a_json_object_of_splits_is_read(tmp_path: Path) -> None:
    lines = [{"text": text, "label": label} for text, label in TEXTS]
    raw = read(tmp_path, {"a.json": json.dumps({"train": lines[:20], "test": lines[20:]})})
    assert sizes(raw) == {"train": 20, "test": 10}


def test_texts_with_semicolons_are_tables_if_they_are_named_as_splits(tmp_path: Path) -> None:
    lines = [f"{text};{label}\n" for text, label in TEXTS]
    files = {"train.txt": "".join(lines), "test.txt": "".join(lines[:8])}
    assert sizes(read(tmp_path, files)) == {"train": 30, "test": 8}


def test_the_label_of_numbers_without_a_header_may_be_last(tmp_path: Path) -> None:
    rows = "".join(f"{n / 7},{-n},{n % 2}\n" for n in range(20))
    raw = read(tmp_path, {"a.csv": rows})
    assert (raw.train[0].shape, raw.classes) == ((20, 2), ("0", "1"))


def test_cyrillic_within_english_is_not_taken_for_western_european(tmp_path: Path) -> None:
    rows = "".join(f"the long film was хорошо number {n},{'ab'[n % 2]}\n" for n in range(20))
    with pytest.raises(DataError, match="give its encoding"):
        read(tmp_path, {"a.csv": f"text,label\n{rows}".encode("cp1251")})


def test_pieces_of_a_download_are_all_read(tmp_path: Path) -> None:
    """One is a copy of another only if it holds the same."""
    half = len(CSV.splitlines()) // 2
    lines = CSV.splitlines(keepends=True)
    files = {
        "part (1).csv": "".join(lines[:half]),
        "part (2).csv": lines[0] + "".join(lines[half:]),
    }
    assert sizes(read(tmp_path / "1", files)) == {"train": 30}
    assert sizes(read(tmp_path / "2", {"a.csv": CSV, "a (1).csv": CSV})) == {"train": 30}


def test_json_that_describes_a_table_of_its_name_is_left_out(tmp_path: Path) -> None:
    columns = {"text": [text for text, _ in TEXTS], "label": [label for _, label in TEXTS]}
    content = parquet_bytes(tmp_path / "x.parquet", columns)
    raw = read(tmp_path / "d", {"food.json": '{"licence": "CC"}', "food.parquet": content})
    assert sizes(raw) == {"train": 30}


def test_a_table_names_images_beside_it_also_where_other_folders_have_such_names(
    tmp_path: Path,
) -> None:
    rows = "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(8))
    files: dict[str, str | bytes] = {f"own/{n}.png": picture(n) for n in range(8)}
    files |= {f"other/{n}.png": picture(100 + n) for n in range(8)}
    raw = read(tmp_path, files | {"own/labels.csv": f"image,label\n{rows}"})
    assert raw.train[0].max() < 100


def test_a_training_split_without_labels_is_refused(tmp_path: Path) -> None:
    train = "text,verdict\n" + "".join(f"{text},\n" for text, _ in TEXTS)
    files = {"train.csv": train, "test.csv": CSV.replace("label", "verdict")}
    with pytest.raises(DataError, match="none of the 30 rows of the training split has a label"):
        read(tmp_path, files, label_column="verdict")


def test_bad_rows_are_named_also_beside_a_split_without_labels(tmp_path: Path) -> None:
    test = "text,label\n" + "".join(f"{text},\n" for text, _ in TEXTS)
    files = {"train.csv": CSV + " ,pos\n", "test.csv": test}
    with pytest.raises(DataError, match=r"found 1 of 31 rows .*train.csv: line 32: nothing in col"):
        read(tmp_path, files, max_bad=0.0)


def test_names_of_columns_may_have_spaces_and_capitals(tmp_path: Path) -> None:
    rows = "".join(f"{text},{label},{n > 20}\n" for n, (text, label) in enumerate(TEXTS))
    raw = read(tmp_path, {"a.csv": f"Text,Label,Is Valid\n{rows}"})
    assert sizes(raw) == {"train": 21, "validation": 9}


def test_a_first_line_of_other_cells_is_left_out_of_a_table_without_a_header(
    tmp_path: Path,
) -> None:
    """As scikit-learn's wine_data.csv has one."""
    rows = "".join(f"{n / 7},{-n},7,{n % 2}\n" for n in range(20))
    raw = read(tmp_path, {"wine.csv": f"20,2,good,bad,other\n{rows}"})
    assert (raw.train[0].shape, raw.classes) == ((20, 3), ("0", "1"))
