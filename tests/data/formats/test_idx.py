"""Tests of IDX files, valid and damaged."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.kills import write_idx
from trainer.config import DataOptions, ReadOptions
from trainer.data import loader, statistics
from trainer.data.dataset import Dataset
from trainer.errors import DataError

IMAGES = "train-images-idx3-ubyte.gz"
LABELS = "train-labels-idx1-ubyte.gz"


@pytest.fixture
def folder(digits: Path, tmp_path: Path) -> Path:
    """Returns a copy of the small digits, which a test may damage."""
    return Path(shutil.copytree(digits, tmp_path / "digits"))


def test_the_shipped_mnist_is_complete(mnist: Dataset) -> None:
    assert mnist.spec.sizes == {"train": 60000, "test": 10000}
    assert (mnist.spec.shape, mnist.spec.dtype) == ((28, 28, 1), "uint8")
    assert mnist.spec.classes == tuple("0123456789")
    assert np.bincount(mnist.test.labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009
    ]  # fmt: skip


def test_uncompressed_files_under_other_names_give_the_same_data(
    digits: Path, tmp_path: Path
) -> None:
    for file in digits.iterdir():
        name = file.name.replace("t10k", "test").replace("-ubyte.gz", "").replace("idx", "")
        (tmp_path / name).write_bytes(gzip.decompress(file.read_bytes()))
    plain = loader.load(DataOptions(data=str(tmp_path), seed=0))
    zipped = loader.load(DataOptions(data=str(digits), seed=0))
    assert plain.fingerprint == zipped.fingerprint
    assert plain.spec.sizes == {"train": 1000, "test": 300}


def test_without_test_files_a_tenth_is_held_out(folder: Path) -> None:
    for file in folder.glob("t10k*"):
        file.unlink()
    sizes = loader.load(DataOptions(data=str(folder), seed=0)).spec.sizes
    assert sizes["test"] == pytest.approx(100, abs=5)


def test_labels_from_one_are_the_classes_that_occur(folder: Path) -> None:
    write_idx(folder / LABELS, np.arange(1000) % 26 + 1)
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", np.arange(300) % 26 + 1)
    classes = tuple(str(n) for n in range(1, 27))
    assert loader.load(DataOptions(data=str(folder), seed=0)).spec.classes == classes
    assert statistics.collect(str(folder), ReadOptions()).classes == classes


def test_of_several_data_sets_in_one_folder_the_user_must_name_one(
    digits: Path, tmp_path: Path
) -> None:
    for file in digits.iterdir():
        name = file.name.replace("t10k", "test")
        for prefix in ("emnist-letters-", "emnist-digits-"):
            shutil.copy(file, tmp_path / f"{prefix}{name}")
    with pytest.raises(
        DataError, match="several data sets: emnist-digits, emnist-letters; give the"
    ):
        loader.load(DataOptions(data=str(tmp_path), seed=0))
    data = loader.load(DataOptions(data=str(tmp_path / "emnist-letters-*"), seed=0))
    assert data.spec.sizes == {"train": 1000, "test": 300}


def _bytes(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def _header(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))


def _claim_too_many(path: Path) -> None:
    """Changes the header to claim four billion images or labels."""
    _header(path, lambda b: b[:4] + b"\xff" * 4 + b[8:])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: _bytes(f / IMAGES, lambda b: b[:-100]), f"{IMAGES}: damaged or truncated gzip"),
        (lambda f: _bytes(f / IMAGES, lambda b: b[:5]), f"{IMAGES}: damaged or truncated gzip"),
        (lambda f: _bytes(f / IMAGES, lambda b: b""), f"{IMAGES}: found magic number 0x, exp"),
        (lambda f: _header(f / IMAGES, lambda b: b"PK" + b[2:]), "magic number 0x504b0803, exp"),
        (lambda f: _header(f / IMAGES, lambda b: b[:7]), "the file ends within its header"),
        (lambda f: _header(f / IMAGES, lambda b: b[:-1]), "bytes, found 783999"),
        (lambda f: _header(f / IMAGES, lambda b: b + b"0"), "bytes, found more"),
        (
            lambda f: _header(f / IMAGES, lambda b: b[:4] + b"\xff" * 12 + b[16:]),
            "examples of 4294",
        ),
        (lambda f: _claim_too_many(f / IMAGES), "1000 labels, but .* has 4294967295 images"),
        (lambda f: (_claim_too_many(f / IMAGES), _claim_too_many(f / LABELS)), "takes 3,367.3 GB"),
        (lambda f: (f / LABELS).unlink(), f"{IMAGES}: found no file of labels"),
        (lambda f: (f / IMAGES).unlink(), f"{LABELS}: found no file of images"),
        (lambda f: write_idx(f / LABELS, np.zeros(999)), "999 labels, but .* has 1000 images"),
        (lambda f: shutil.copy(f / LABELS, f / "more-idx1-ubyte.gz"), "holds the same split as"),
        (
            lambda f: write_idx(f / LABELS, np.zeros(1000)),
            "the test split has a class '1' that the",
        ),
        (
            lambda f: write_idx(f / LABELS, np.arange(1000) % 9),
            "the test split has a class '9' that",
        ),
        (
            lambda f: write_idx(f / "t10k-images-idx3-ubyte.gz", np.zeros((300, 28, 27))),
            "test examples of shape .*27.*, expected .*28.* as in training",
        ),
    ],
)
def test_the_error_names_the_damaged_file(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder)
    with pytest.raises(DataError, match=message) as caught:
        loader.load(DataOptions(data=str(folder), seed=0))
    assert str(caught.value).startswith(str(folder))
