"""Images and texts in a folder a class."""

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


def test_a_folder_is_a_class(tmp_path: Path) -> None:
    data = loader.load(DataOptions(data=write(tmp_path, images()), seed=0))
    assert (data.spec.classes, data.spec.shape) == (("cats", "dogs"), (6, 4, 3))
    assert data.spec.sizes == {"train": 18, "test": 2}
    assert data.train.examples[data.train.labels == 0].max() < 20


def test_parts_are_as_they_lie_and_from_a_bucket_too(tmp_path: Path, bucket: str) -> None:
    files = images("train/") | images("val/", 3) | images("test/", 2)
    write(tmp_path, files)
    storage.write_all(storage.folder(f"{bucket}/pets"), {name: tmp_path / name for name in files})
    local = loader.load(DataOptions(data=str(tmp_path), seed=0))
    assert local.spec.sizes == {"train": 20, "validation": 6, "test": 4}
    assert loader.load(DataOptions(data=f"{bucket}/pets", seed=0)).fingerprint == local.fingerprint


def test_texts_are_whole_files(tmp_path: Path) -> None:
    files = {
        f"{part}/{name}/{n}_7.txt": f"{name} film\nin two lines {n}\n".encode()
        for part in ("train", "test")
        for name in ("neg", "pos")
        for n in range(3)
    }
    data = loader.load(DataOptions(data=write(tmp_path, files), seed=0))
    assert data.spec.sizes == {"train": 6, "test": 6}
    assert data.test.examples[0] == "neg film\nin two lines 0"


def test_what_is_neither_is_told_and_hidden_files_are_not(
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
        "left out: 2 files that are no images, as README.md, notes.txt"
    ]


def test_a_size_brings_all_to_one(tmp_path: Path) -> None:
    path = write(tmp_path, images() | {"cats/large.png": encoded(np.zeros((90, 60), np.uint8))})
    with pytest.raises(DataError, match=r"cats/large.png: an image of 60x90, expected 4x6"):
        loader.load(DataOptions(data=path, seed=0))
    assert loader.load(DataOptions(data=path, seed=0, image_size=8)).spec.shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"cats/x.png": b"", "dogs/y.png": b"GIF89a"}, r"cats/x.png: no image.*/dogs/y.png: no im"),
        ({"x.png": encoded(CAT), "cats/1.png": encoded(CAT)}, "x.png: lies in no folder of a cl"),
        ({"train/x.png": encoded(CAT)}, "train/x.png: lies in no folder of a class"),
        (images("val/") | images("test/"), ": no part to train on, found validation and test"),
        (images("train/") | {"test/cow/1.png": encoded(CAT)}, ": the test part has a class 'cow'"),
        ({"a/1.txt": b"", "b/1.txt": b"x"}, "a/1.txt: found an empty file, expected a"),
        ({"a/1.txt": b"x\n\xff", "b/1.txt": b"x"}, "a/1.txt: not UTF-8: found byte 0xff"),
        ({"a/1.doc": b"x"}, "no known format, found no files"),
    ],
)
def test_what_cannot_be_trained_on_is_named(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        loader.load(DataOptions(data=write(tmp_path, files), seed=0))
    assert re.match(re.escape(str(tmp_path)), str(caught.value))
