"""Tests of texts in a folder with one file per class."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.config import DataOptions
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
        ({"pos": b"a\nb", "neg": b"a\n\xe9\n"}, "neg.txt: line 2: not UTF-8: found byte 0xe9"),
        ({"pos": b"a\nb", "neg": b"a"}, "class 'neg' has 1 example, too few"),
    ],
)
def test_the_error_says_why_data_is_not_trainable(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        loader.load(DataOptions(data=write(tmp_path, **files), seed=0))
    assert str(caught.value).startswith(str(tmp_path))
