"""Tests of NumPy archives, dense and sparse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from trainer.config import DataOptions
from trainer.data import loader
from trainer.errors import DataError

X = np.arange(60 * 16 * 16).reshape(60, 16, 16) % 256
Y = np.arange(60) % 3


def arrays(**changes: Any) -> dict[str, Any]:
    values = {"x_train": X.astype(np.uint8), "y_train": Y, "x_test": X[:9], "y_test": Y[:9]}
    return {name: value for name, value in {**values, **changes}.items() if value is not None}


def save(path: Path, **changes: Any) -> str:
    np.savez_compressed(path / "set.npz", **arrays(**changes))
    return str(path / "set.npz")


def test_the_layout_of_keras_is_read(tmp_path: Path) -> None:
    data = loader.load(DataOptions(data=save(tmp_path), seed=0))
    assert data.spec.sizes == {"train": 60, "test": 9}
    assert (data.train.examples[..., 0] == X).all()
    assert (data.spec.shape, data.spec.dtype, data.spec.high) == ((16, 16, 1), "uint8", 255)


def test_a_folder_with_one_archive_is_read_as_the_archive(tmp_path: Path) -> None:
    path = save(tmp_path)
    assert (
        loader.load(DataOptions(data=str(tmp_path), seed=0)).fingerprint
        == loader.load(DataOptions(data=path, seed=0)).fingerprint
    )


def test_an_archive_is_recognised_by_content_under_any_name(tmp_path: Path) -> None:
    renamed = Path(save(tmp_path)).rename(tmp_path / "set.data")
    assert loader.load(DataOptions(data=str(renamed), seed=0)).spec.sizes["train"] == 60


def test_float_images_keep_their_range(tmp_path: Path) -> None:
    data = loader.load(
        DataOptions(data=save(tmp_path, x_train=X / 256, x_test=X[:9] / 256), seed=0)
    )
    assert (data.spec.dtype, data.spec.low) == ("float32", 0)
    assert data.spec.high == pytest.approx(255 / 256)


def test_one_hot_labels_are_read(tmp_path: Path) -> None:
    data = loader.load(DataOptions(data=save(tmp_path, y_train=np.eye(3)[Y]), seed=0))
    assert (data.train.labels == Y).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": None}, "no array 'y_train', found x_test, x_train, y_test"),
        ({"x_test": None}, "no array 'x_test'"),
        ({"y_train": Y[:59]}, "training split: 60 examples but 59 labels"),
        ({"y_train": Y - 1}, "training labels: found -1, expected 0 or more"),
        ({"y_train": Y * 1000}, "training labels: found 2000, expected class indices below 1000"),
        ({"y_train": Y / 2}, "training labels: found float64 of shape .60,., expected integers"),
        ({"y_train": np.ones((60, 3))}, "must be one-hot"),
        ({"y_test": Y[:9] + 1}, "test labels: found 3, expected 0 to 2"),
        ({"y_train": Y * 2, "y_test": Y[:9] * 2}, "class '1' has no training examples"),
        ({"y_train": Y * 0, "y_test": Y[:9] * 0}, "found one class"),
        ({"x_train": np.where(X == 7, np.nan, X)}, "example 0 holds NaN or infinity"),
        ({"x_train": X * 1e300}, "holds NaN or infinity"),
        ({"x_train": X[:, 0, 0]}, "of shape .60,., expected numbers: images"),
        ({"x_train": X + 1j}, "found complex128"),
        ({"x_train": X[:0], "y_train": Y[:0]}, "training split: no examples"),
        ({"x_train": np.array([None] * 60)}, "array 'x_train': holds Python objects"),
    ],
)
def test_the_error_says_why_data_is_not_trainable(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        loader.load(DataOptions(data=save(tmp_path, **changes), seed=0))
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize("cut", [10, 500, -30])
def test_the_error_names_a_truncated_archive(tmp_path: Path, cut: int) -> None:
    path = Path(save(tmp_path))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"set\.npz: damaged or truncated"):
        loader.load(DataOptions(data=str(path), seed=0))


def test_the_error_names_a_damaged_array(tmp_path: Path) -> None:
    path = Path(save(tmp_path))
    content = bytearray(path.read_bytes())
    content[200:220] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(DataError, match="array 'x_train': damaged"):
        loader.load(DataOptions(data=str(path), seed=0))


def save_sparse(path: Path, **changes: Any) -> str:
    matrix = scipy.sparse.csr_array(X.reshape(60, 256) % 7 // 5)
    arrays = {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr}
    arrays |= {"format": "csr", "shape": matrix.shape, "labels": Y, **changes}
    np.savez(path / "set.npz", **{k: v for k, v in arrays.items() if v is not None})
    return str(path / "set.npz")


def test_a_sparse_matrix_is_read_and_split(tmp_path: Path) -> None:
    data = loader.load(DataOptions(data=save_sparse(tmp_path), seed=0))
    assert data.spec.sizes == {"train": 54, "test": 6}
    assert (data.spec.kind, data.spec.shape, data.spec.dtype) == ("vector", (256,), "uint8")
    assert data.train.examples.sum() + data.test.examples.sum() == (X % 7 // 5).sum()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "no array 'labels'"),
        ({"labels": Y[:3]}, "60 examples but 3 labels"),
        ({"indptr": np.arange(61) * 1000}, "damaged sparse matrix"),
        ({"shape": (60, 2)}, "damaged sparse matrix"),
        ({"shape": (60, 10**12)}, "examples of 1000000000000 values, expected at most 16777216"),
        ({"format": "xyz"}, "sparse matrix of format xyz, expected csr"),
        ({"indices": None}, "no array 'indices'"),
    ],
)
def test_the_error_says_what_is_damaged_in_a_sparse_matrix(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        loader.load(DataOptions(data=save_sparse(tmp_path, **changes), seed=0))
