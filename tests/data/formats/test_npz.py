"""Tests of NumPy archives, dense and sparse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from trainer.config import DataOptions, ReadOptions
from trainer.data import loader, statistics
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


CLASSES = np.array(["bird", "cat", "dog"])


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (Y[:, np.newaxis], "012"),
        (Y[np.newaxis], "012"),
        (Y.astype(np.float32), "012"),
        (np.eye(3, dtype=np.float32)[Y], "012"),
        (np.eye(4)[Y + 1], "123"),
        (Y > 0, ("False", "True")),
        (Y == 0, ("False", "True")),
        (np.where(Y, 1, -1), ("-1", "1")),
        (CLASSES[Y], ("bird", "cat", "dog")),
        (CLASSES[Y].astype("S"), ("bird", "cat", "dog")),
        (np.char.add(CLASSES[Y], " "), ("bird", "cat", "dog")),
        (Y + 1, "123"),
        (Y * 1000, ("0", "1000", "2000")),
        ((Y * 2).astype(np.uint64), "024"),
    ],
)
def test_labels_of_any_dtype_name_the_classes_that_occur(
    tmp_path: Path, labels: np.ndarray, classes: Any
) -> None:
    path = save(tmp_path, y_train=labels, x_test=None, y_test=None)
    raw = loader.read(path, ReadOptions())
    assert raw.classes == tuple(classes)
    expected = np.unique(labels.reshape(60, -1), axis=0, return_inverse=True)[1].reshape(-1)
    if len(classes) == 3 and labels.dtype.kind != "f":
        assert (raw.train[1] == expected).all()
    with loader.open_stream(path, ReadOptions()) as stream:
        assert stream.classes == raw.classes
        assert (stream.splits["train"][1] == raw.train[1]).all()
    assert statistics.collect(path, ReadOptions()).classes == raw.classes


NAMES = [
    ("X", "y"),
    ("data", "labels"),
    ("images", "targets"),
    ("arr_0", "arr_1"),
    ("X_train", "Y_train"),
    ("trainX", "trainY"),
    ("train_images", "train_labels"),
    ("features_training", "labels_training"),
]


@pytest.mark.parametrize(("examples", "labels"), NAMES)
def test_arrays_are_found_by_usual_names(tmp_path: Path, examples: str, labels: str) -> None:
    np.savez(tmp_path / "a.npz", **{examples: X.astype(np.uint8), labels: Y})
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / f"{examples}.npy", X.astype(np.uint8))
    np.save(tmp_path / "folder" / f"{labels}.npy", Y)
    for path in ("a.npz", "folder"):
        raw = loader.read(str(tmp_path / path), ReadOptions())
        assert (raw.train[0].reshape(X.shape) == X).all()
        assert (raw.train[1] == Y).all()
        assert raw.source is not None
        assert raw.source.summary == f"arrays {examples}, {labels}"


@pytest.mark.parametrize("name", ["val", "valid", "dev", "validation"])
def test_validation_arrays_are_the_validation_split(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, **{f"x_{name}": X[:6], f"y_{name}": Y[:6]})
    data = loader.load(DataOptions(data=path, seed=0))
    assert data.spec.sizes == {"train": 60, "validation": 6, "test": 9}
    with loader.open_stream(path, ReadOptions()) as stream:
        assert {name: len(labels) for name, (_, labels) in stream.splits.items()} == data.spec.sizes


def test_splits_may_be_files_or_folders_of_arrays(tmp_path: Path) -> None:
    for split, count in (("train", 60), ("val", 6), ("test", 9)):
        (tmp_path / "folders" / split).mkdir(parents=True)
        (tmp_path / "archives").mkdir(exist_ok=True)
        np.savez(tmp_path / "archives" / f"{split}.npz", x=X[:count], y=Y[:count])
        np.save(tmp_path / "folders" / split / "images.npy", X[:count])
        np.save(tmp_path / "folders" / split / "labels.npy", Y[:count])
    for path in ("archives", "folders"):
        data = loader.load(DataOptions(data=str(tmp_path / path), seed=0))
        assert data.spec.sizes == {"train": 60, "validation": 6, "test": 9}
        assert (data.train.examples[..., 0] == X).all()


@pytest.mark.parametrize(
    ("order", "fits"),
    [("X Y X9 Y9", True), ("X X9 Y Y9", True), ("Y X", False), ("X Y X9", False)],
)
def test_arrays_without_names_are_told_apart_by_their_order(
    tmp_path: Path, order: str, fits: bool
) -> None:
    values = {"X": X, "Y": Y, "X9": X[:9], "Y9": Y[:9]}
    np.savez(tmp_path / "a.npz", *(values[name] for name in order.split()))
    if fits:
        data = loader.load(DataOptions(data=str(tmp_path / "a.npz"), seed=0))
        assert data.spec.sizes == {"train": 60, "test": 9}
    else:
        with pytest.raises(
            DataError, match="order of the arrays does not tell.*Found the arrays arr"
        ):
            loader.read(str(tmp_path / "a.npz"), ReadOptions())


def test_arrays_that_are_not_read_are_named(tmp_path: Path) -> None:
    path = save(tmp_path, y_test=None, ids=np.arange(60), class_names=CLASSES)
    raw = loader.read(path, ReadOptions())
    assert raw.classes == ("bird", "cat", "dog")
    assert raw.test is None
    assert raw.source is not None
    assert raw.source.summary == "arrays x_train, y_train, not used: ids, x_test (no labels)"


def test_a_split_without_any_label_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = loader.read(save(tmp_path, y_test=np.full(9, -1)), ReadOptions())
    assert raw.test is None
    assert "left out the test split: its 9 labels are all -1" in caplog.text


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_that_come_first_are_turned(
    tmp_path: Path, channels: int, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = np.arange(60 * channels * 80).reshape(60, channels, 8, 10) % 256
    path = save(tmp_path, x_train=pixels.astype(np.uint8), x_test=None, y_test=None)
    with caplog.at_level("INFO", "trainer"):
        raw = loader.read(path, ReadOptions())
    assert (raw.train[0] == pixels.transpose(0, 2, 3, 1)).all()
    assert f"channels first; read as (N, 8, 10, {channels})" in caplog.text
    with loader.open_stream(path, ReadOptions()) as stream:
        blocks = [block for block, _ in stream.splits["train"][0]]
    assert (np.concatenate(blocks) == raw.train[0]).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_any_size_are_read(tmp_path: Path, dtype: Any) -> None:
    path = save(tmp_path, x_train=(X / 255).astype(dtype), x_test=None, y_test=None)
    data = loader.load(DataOptions(data=path, seed=0))
    assert (data.spec.dtype, data.spec.low, data.spec.high) == ("float32", 0, 1)


def test_several_archives_are_not_guessed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays())
    np.savez(tmp_path / "b.npz", **arrays())
    with pytest.raises(
        DataError, match=r"found a\.npz, b\.npz, expected one archive, or one for ea"
    ):
        loader.read(str(tmp_path), ReadOptions())


def test_one_array_alone_asks_for_its_folder(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(DataError, match=r"no labels for the examples x.*Give the folder of all"):
        loader.read(str(tmp_path / "x.npy"), ReadOptions())


def test_arrays_of_unknown_names_give_way_to_a_table(tmp_path: Path) -> None:
    np.save(tmp_path / "embeddings_of_texts.npy", X)
    rows = [f"some text {n},{'ab'[n % 2]}" for n in range(20)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]))
    assert loader.read(str(tmp_path), ReadOptions()).classes == ("a", "b")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"x_train": X / 255},
            "test examples: found images of values up to 255, and in training up to 1; scale both",
        ),
        (
            {"x_test": X[:9] / 255},
            "test examples: found images of values up to 1, and in training up to 255; scale both",
        ),
        (
            {"y_train": None},
            "found no labels for the examples x_train. Found the arrays x_test .9, ",
        ),
        (
            {"x_test": None},
            "found no examples for the labels y_test. Found the arrays x_train .60,",
        ),
        ({"y_train": Y[:59]}, "training split: 60 examples but 59 labels"),
        (
            {"y_train": Y - 1},
            "training labels: found -1 for 20 of 60 examples, which stands for no lab",
        ),
        ({"y_train": Y - 2}, "training labels: found -2, expected 0 or more"),
        ({"y_train": Y / 2}, "training labels: found 0.5, expected classes, as whole numbers"),
        ({"y_train": np.where(Y == 1, np.nan, Y)}, "training labels: found nan, expected classes"),
        ({"y_train": np.ones((60, 3))}, r"found \[1.0, 1.0, 1.0\] for example 0, expected one-hot"),
        (
            {"y_train": Y + 1j},
            "training labels: found complex128 of shape .60,., expected integers",
        ),
        ({"y_train": np.array(["", "a", "b"])[Y]}, "training labels: found an empty label"),
        ({"y_test": Y[:9] + 1}, "the test split has a class '3' that the training split does not"),
        ({"y_train": Y * 2}, "the test split has a class '1' that the training split does not"),
        ({"x_val": X[:9], "x_valid": X[:9]}, "two arrays for the same examples, x_val and x_valid"),
        ({"x_train": X.reshape(60, 1, 16, 16, 1)}, "of shape .60, 1, 16, 16, 1., expected numbers"),
        (
            {"x_train": np.zeros((60, 1, 28, 3))},
            "not clear whether the channels are first",
        ),
        ({"x_train": np.zeros((60, 5, 16, 16))}, "not clear whether the channels are first"),
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
