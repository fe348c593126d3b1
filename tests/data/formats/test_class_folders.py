"""Tests of images and texts in one folder per class."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.data.formats.test_images import encoded
from trainer import storage
from trainer.config import DataOptions
from trainer.data import loader
from trainer.errors import DataError

CAT, DOG = np.full((6, 4), 10, np.uint8), np.full((6, 4, 3), 200, np.uint8)


def write(root: Path, files: Mapping[str, bytes]) -> str:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return str(root)


def images(prefix: str = "", count: int = 10) -> dict[str, bytes]:
    cats = {f"{prefix}cats/{n}.png": encoded(CAT + n) for n in range(count)}
    dogs = {f"{prefix}dogs/more/{n}.JPG": encoded(DOG, "JPEG") for n in range(count)}
    return cats | dogs


def test_each_folder_is_a_class(tmp_path: Path) -> None:
    data = loader.load(DataOptions(data=write(tmp_path, images()), seed=0))
    assert (data.spec.classes, data.spec.shape) == (("cats", "dogs"), (6, 4, 3))
    assert data.spec.sizes == {"train": 18, "test": 2}
    assert data.train.examples[data.train.labels == 0].max() < 20


def test_splits_are_folders_also_in_a_bucket(tmp_path: Path, bucket: str) -> None:
    files = images("train/") | images("val/", 3) | images("test/", 2)
    write(tmp_path, files)
    storage.write_all(storage.folder(f"{bucket}/pets"), {name: tmp_path / name for name in files})
    local = loader.load(DataOptions(data=str(tmp_path), seed=0))
    assert local.spec.sizes == {"train": 20, "validation": 6, "test": 4}
    assert loader.load(DataOptions(data=f"{bucket}/pets", seed=0)).fingerprint == local.fingerprint


def test_each_file_is_a_text(tmp_path: Path) -> None:
    files = {
        f"{split}/{name}/{n}_7.txt": f"{name} film\nin two lines {n}\n".encode()
        for split in ("train", "test")
        for name in ("neg", "pos")
        for n in range(3)
    }
    data = loader.load(DataOptions(data=write(tmp_path, files), seed=0))
    assert data.spec.sizes == {"train": 6, "test": 6}
    assert data.test.examples[0] == "neg film\nin two lines 0"


def test_skipped_files_are_logged_except_hidden_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    others = {
        "README.md": b"",
        "cats/notes.txt": b"x",
        "cats/.x.png": b"",
        "__MACOSX/cats/._1.png": b"",
    }
    with caplog.at_level(logging.WARNING, "trainer"):
        data = loader.load(DataOptions(data=write(tmp_path, images() | others), seed=0))
    assert data.spec.sizes == {"train": 18, "test": 2}
    assert [record.getMessage() for record in caplog.records] == [
        "skipped 2 files that are not images, for example README.md, notes.txt"
    ]


def test_images_of_different_sizes_are_resized_to_image_size(tmp_path: Path) -> None:
    path = write(tmp_path, images() | {"cats/large.png": encoded(np.zeros((90, 60), np.uint8))})
    with pytest.raises(DataError, match=r"cats/large.png: an image of 60x90, expected 4x6"):
        loader.load(DataOptions(data=path, seed=0))
    assert loader.load(DataOptions(data=path, seed=0, image_size=8)).spec.shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"cats/x.png": b"", "dogs/y.png": b"GIF89a"},
            r"cats/x.png: not an im.*/dogs/y.png: not an im",
        ),
        ({"x.png": encoded(CAT), "cats/1.png": encoded(CAT)}, "x.png: is not in a class folder"),
        ({"train/x.png": encoded(CAT)}, "train/x.png: is not in a class folder"),
        (images("val/") | images("test/"), ": no training split, found validation and test"),
        (images("train/") | {"test/cow/1.png": encoded(CAT)}, ": the test split has a class 'cow'"),
        ({"a/1.txt": b"", "b/1.txt": b"x"}, "a/1.txt: found an empty file, expected a"),
        ({"a/1.txt": b"x\n\xff", "b/1.txt": b"x"}, "a/1.txt: not UTF-8: found byte 0xff"),
        ({"a/1.doc": b"x"}, "no known format, found no files"),
    ],
)
def test_the_error_says_why_data_is_not_trainable(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        loader.load(DataOptions(data=write(tmp_path, files), seed=0))
    assert re.match(re.escape(str(tmp_path)), str(caught.value))
