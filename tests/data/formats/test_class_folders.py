"""Tests of images and texts in one folder per class."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.data.formats.test_images import encoded
from trainer import storage
from trainer.config import DataOptions, ReadOptions
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


def test_files_that_are_left_out_are_named_except_hidden_ones(tmp_path: Path) -> None:
    others = {
        "README.md": b"",
        "cats/list.txt": b"x",
        "loose.png": encoded(CAT),
        "cats/.x.png": b"",
        "__MACOSX/cats/._1.png": b"",
    }
    data = loader.load(DataOptions(data=write(tmp_path, images() | others), seed=0))
    assert data.spec.sizes == {"train": 18, "test": 2}
    assert data.source is not None
    assert data.source.left_out == (
        "__MACOSX (hidden); loose.png (in no folder of a class); cats/list.txt (no image); "
        "README.md (notes)"
    )


def test_images_of_different_sizes_are_resized_to_image_size(tmp_path: Path) -> None:
    path = write(tmp_path, images() | {"cats/large.png": encoded(np.zeros((90, 60), np.uint8))})
    data = loader.load(DataOptions(data=path, seed=0))
    assert data.spec.shape == (32, 32, 3)
    assert data.auto_settings == {"image_size": 32}
    assert data.source is not None
    assert data.source.summary == (
        "images in one folder per class, of 4x6 to 60x90 pixels, resized to 32x32"
    )
    assert loader.load(DataOptions(data=path, seed=0, image_size=8)).spec.shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"cats/x.png": b"", "dogs/y.png": b"GIF89a"},
            r"cats/x.png: not an im.*/dogs/y.png: not an im",
        ),
        ({"x.png": encoded(CAT)}, "no known format, found x.png"),
        (
            {"train/x.png": encoded(CAT), "test/x.png": encoded(CAT)},
            ": found examples directly in test, train, expected one folder per class in each",
        ),
        (
            images("train/") | {"cow/1.png": encoded(CAT)},
            ": found the folders cow, train: is train a split, or a class",
        ),
        (
            images() | {"cow/1.heic": b"x", "cow/2.heic": b"x"},
            r"/cow: found 2 files such as 1.heic and no image that can be read; convert them",
        ),
        (images("val/") | images("test/"), ": no training split, found validation and test"),
        (images("train/") | {"test/cow/1.png": encoded(CAT)}, ": the test split has a class 'cow'"),
        (
            {"a/1.txt": b"", "b/1.txt": b"x"},
            "a/1.txt: found an empty file, expected a text .1 of 2 texts, ",
        ),
        ({"a/1.txt": b"x\n\xff", "b/1.txt": b"x"}, "a/1.txt: not UTF-8: found byte 0xff"),
        ({"a/1.doc": b"x"}, "no known format, found only 1.doc"),
    ],
)
def test_the_error_says_why_data_is_not_trainable(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        loader.load(DataOptions(data=write(tmp_path, files), seed=0))
    assert re.match(re.escape(str(tmp_path)), str(caught.value))


def png(*names: str) -> dict[str, bytes]:
    return {f"{name}/{n}.png": encoded(CAT + n) for name in names for n in range(4)}


@pytest.mark.parametrize(
    ("files", "classes", "splits"),
    [
        # Names that could be splits, and are classes.
        (png("airport", "bus_station", "train_station"), 3, {"train"}),
        (png("bus", "car", "train"), 3, {"train"}),
        (png("valid", "invalid"), 2, {"train"}),
        (png("beaker/set1", "flask/set1", "test-tube/set1"), 3, {"train"}),
        (png("bus/set1", "car/set1", "train/set1"), 3, {"train"}),
        (png("train/bus", "train/train", "test/bus", "test/train"), 2, {"train", "test"}),
        # Splits by other names than train, validation and test.
        (png("training_set/a", "training_set/b", "test_set/a"), 2, {"train", "test"}),
        (png("seg_train/seg_train/a", "seg_train/seg_train/b", "seg_test/seg_test/a",
             "seg_pred/seg_pred"), 2, {"train", "test"}),
        (png("Train/a", "Train/b", "Val/a", "unlabeled/x"), 2, {"train", "validation"}),
        (png("a/train/good", "a/test/good", "b/train/good", "b/test/good"), 2, {"train", "test"}),
        (png("a/train", "a/test", "b/train", "b/test"), 2, {"train", "test"}),
        # A folder too high, a split without labels, other folders beside.
        (png("pets/train/a", "pets/train/b", "pets/val/a"), 2, {"train", "validation"}),
        (png("archive/images/a", "archive/images/b"), 2, {"train"}),
        (png("train/a", "train/b", "test"), 2, {"train"}),
        (png("train/a", "train/b", "test/a", "masks"), 2, {"train", "test"}),
    ],
)  # fmt: skip
def test_folders_are_splits_or_classes_by_what_is_in_them(
    tmp_path: Path, files: dict[str, bytes], classes: int, splits: set[str]
) -> None:
    raw = loader.read(write(tmp_path, files), ReadOptions())
    assert raw.classes is not None
    assert len(raw.classes) == classes
    assert {"train"} | ({"validation"} if raw.validation else set()) | (
        {"test"} if raw.test else set()
    ) == splits
    left_out = raw.source.left_out if raw.source else ""
    for folder in ("test/", "masks/", "unlabeled/", "seg_pred/"):
        count = sum(name.startswith(folder) for name in files)
        read = {"test/": "test" in splits}.get(folder, False)
        assert (folder in left_out) == (count > 0 and not read)


def test_links_to_folders_and_files_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "store", png("cats", "birds", "dogs"))
    data = tmp_path / "data"
    (data / "dogs").mkdir(parents=True)
    for file in (tmp_path / "store/dogs").iterdir():
        (data / "dogs" / file.name).symlink_to(file)
    (data / "cats").symlink_to(tmp_path / "store/cats")
    (data / "birds").symlink_to("../store/birds")
    (data / "gone").symlink_to("nothing")
    (data / "cats/around").symlink_to(data)
    raw = loader.read(str(data), ReadOptions())
    assert raw.classes == ("birds", "cats", "dogs")
    assert len(raw.train[1]) == 12
    assert raw.source is not None
    assert "gone (a link to nothing)" in raw.source.left_out
    assert "cats/around (a link to a folder around it)" in raw.source.left_out


def test_files_without_an_extension_are_images_or_texts_by_their_content(tmp_path: Path) -> None:
    pictures = {f"{name}/{n}": encoded(CAT + n) for name in "ab" for n in range(3)}
    assert loader.read(write(tmp_path / "1", pictures), ReadOptions()).train[0].ndim == 4
    news = {f"{name}.{name}/{n}": b"some words" for name in "ab" for n in range(49960, 49963)}
    raw = loader.read(write(tmp_path / "2", news), ReadOptions())
    assert (raw.classes, len(raw.train[0])) == (("a.a", "b.b"), 6)


def test_a_class_has_one_name_however_its_letters_are_stored(tmp_path: Path) -> None:
    files = png("train/caf\u00e9", "train/th\u00e9", "test/cafe\u0301", "test/the\u0301")
    raw = loader.read(write(tmp_path, files), ReadOptions())
    assert raw.classes == ("caf\u00e9", "th\u00e9")


def test_a_class_whose_name_is_not_utf8_is_refused_before_it_is_read(tmp_path: Path) -> None:
    write(tmp_path, png("caf\udce9", "plain"))
    with pytest.raises(DataError, match=r"whose name is not UTF-8: b'caf\\xe9'; rename it"):
        loader.read(str(tmp_path), ReadOptions())
