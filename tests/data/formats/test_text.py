"""Tests of texts in a folder with one file per class."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.config import DataOptions, ReadOptions
from trainer.data import loader
from trainer.data.dataset import Dataset
from trainer.errors import DataError


def write(folder: Path, **files: bytes) -> str:
    for name, content in files.items():
        (folder / f"{name}.txt").write_bytes(content)
    return str(folder)


def test_the_shipped_reviews_are_complete(reviews: Dataset) -> None:
    assert reviews.spec.sizes == {"train": 9511, "test": 1057}
    assert (reviews.spec.classes, reviews.spec.kind) == (("neg", "pos"), "text")
    assert reviews.source is not None
    assert reviews.source.left_out == ""


def test_classes_are_named_after_their_files(tmp_path: Path) -> None:
    lines = b"\n".join(b"line %d" % n for n in range(20))
    data = loader.load(DataOptions(data=write(tmp_path, sun=lines, rain=lines, snow=lines), seed=0))
    assert data.spec.classes == ("rain", "snow", "sun")


def test_only_line_feeds_separate_examples(tmp_path: Path) -> None:
    lines = "\ufeffa\x0cb\u2028c\r\n\n  \nd\n".encode()
    data = loader.load(DataOptions(data=write(tmp_path, one=lines, two=lines), seed=0))
    assert sorted({*data.train.examples, *data.test.examples}) == ["a\x0cb\u2028c", "d"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"pos": b"a\nb"}, "pos.txt: found one class only"),
        ({"pos": b"a\nb", "neg": b""}, "neg.txt: no examples"),
        ({"pos": b"a\nb", "neg": b"\n \n"}, "neg.txt: no examples"),
        ({"pos": b"a\nb", "neg": b"a\n\xe9\xea\n"}, "neg.txt: not UTF-8, UTF-16 or cp1252; give"),
        ({"pos": b"a\nb", "neg": "a\n\u00e9\n".encode() + b"\xff\n"}, "neg.txt: line 3: not UTF-8"),
        ({"train": b"a\nb", "test": b"a\nb", "readme": b"x"}, "found one class only"),
        ({"pos": b"a\nb", "neg": b"a"}, "class 'neg' has 1 example, too few"),
    ],
)
def test_the_error_says_why_data_is_not_trainable(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        loader.load(DataOptions(data=write(tmp_path, **files), seed=0))
    assert str(caught.value).startswith(str(tmp_path))


def test_lists_and_notes_are_no_classes(tmp_path: Path) -> None:
    files = {name: b"a\nb" for name in ("pos", "neg", "classes", "readme", "vocab", "train")}
    raw = loader.read(write(tmp_path, **files), ReadOptions())
    assert raw.classes == ("neg", "pos")
    assert raw.source is not None
    assert raw.source.left_out == (
        "classes.txt, train.txt, vocab.txt (no class by its name); readme.txt (notes)"
    )


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "utf-8-sig"])
def test_the_encoding_is_found(tmp_path: Path, encoding: str) -> None:
    lines = "\n".join(f"ein sch\u00f6ner Film {n}" for n in range(20))
    raw = loader.read(
        write(tmp_path, a=lines.encode(encoding), b=lines.encode(encoding)), ReadOptions()
    )
    assert raw.train[0][0] == "ein sch\u00f6ner Film 0"


def test_damaged_lines_are_left_out_up_to_a_tenth(tmp_path: Path) -> None:
    path = write(tmp_path, a=b"good\n" * 20, b=b"bad\n" * 19 + b"a\0b\n")
    assert len(loader.read(path, ReadOptions()).train[0]) == 39
    with pytest.raises(DataError, match=r"b.txt: line 20: found a.* \(1 of 40 lines, expected"):
        loader.read(path, ReadOptions(max_bad=0.0))
