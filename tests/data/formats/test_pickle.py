"""Tests of pickles: refused by default, or read by an unpickler that accepts arrays only."""

from __future__ import annotations

import codecs
import gzip
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from trainer.config import DataOptions
from trainer.data import loader
from trainer.errors import DataError

# As the reference scripts write it: Python 2.7, NumPy 1.16, SciPy 1.2, protocol 0.
PYTHON_2_PICKLE = Path(__file__).parent.parent / "files" / "seed-python2-protocol0.pickle"


def arrays() -> list[Any]:
    y = np.arange(40) % 2
    x = scipy.sparse.csr_matrix(np.eye(2)[y] * 3.0)
    return [x, np.eye(2)[y], x[:10], np.eye(2)[y[:10]]]


def test_a_pickle_is_refused_and_the_error_names_the_alternatives() -> None:
    with pytest.raises(DataError, match=r"run any code.*np\.savez.*--allow-pickle"):
        loader.load(DataOptions(data=str(PYTHON_2_PICKLE), seed=0))


def test_a_pickle_of_python_2_is_read() -> None:
    data = loader.load(DataOptions(data=str(PYTHON_2_PICKLE), seed=0, allow_pickle=True))
    assert data.spec.sizes == {"train": 40, "test": 20}
    assert (data.spec.shape, data.spec.classes) == ((30,), ("0", "1"))
    rows, labels = data.train.examples, data.train.labels
    assert (rows[np.arange(40), labels] >= 3).all()  # Each row has its largest value at its label.


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_is_recognised_by_content(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "set"
    path.write_bytes(pickle.dumps(arrays(), protocol))
    data = loader.load(DataOptions(data=str(path), seed=0, allow_pickle=True))
    assert (data.train.labels == np.arange(40) % 2).all()


CIFAR = np.arange(20 * 3072).reshape(20, 3072) % 251


def write_cifar(folder: Path, names: list[str], protocol: int = 2) -> None:
    for number, name in enumerate(names):
        batch = {
            b"data": (CIFAR + number).astype(np.uint8) if protocol > 2 else (CIFAR + number) % 256,
            b"labels": [n % 10 for n in range(20)],
            b"filenames": [f"{n}.png" for n in range(20)],
            b"batch_label": name,
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol))


def test_the_files_of_cifar_10_are_one_data_set(tmp_path: Path) -> None:
    write_cifar(tmp_path, ["data_batch_1", "data_batch_2", "test_batch"])
    names = [f"class {n}" for n in range(10)]
    (tmp_path / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, 2))
    (tmp_path / "readme.html").write_text("<p>about")
    data = loader.load(DataOptions(data=str(tmp_path), seed=0, allow_pickle=True))
    assert data.spec.sizes == {"train": 40, "test": 20}
    assert (data.spec.shape, data.spec.classes) == ((32, 32, 3), tuple(names))
    planes = CIFAR[0].reshape(3, 32, 32)
    assert (data.train.examples[0] == planes.transpose(1, 2, 0)).all()
    assert (data.train.examples[20] == planes.transpose(1, 2, 0) + 1).all()


def test_the_fine_labels_of_cifar_100_are_the_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train", "test"):
        fine, coarse = [n % 4 for n in range(20)], [n % 2 for n in range(20)]
        batch = {"data": CIFAR, "fine_labels": fine, "coarse_labels": coarse}
        (tmp_path / name).write_bytes(pickle.dumps(batch))
    meta = {"fine_label_names": list("abcd"), "coarse_label_names": list("xy")}
    (tmp_path / "meta").write_bytes(pickle.dumps(meta))
    with caplog.at_level("INFO", "trainer"):
        data = loader.load(DataOptions(data=str(tmp_path), seed=0, allow_pickle=True))
    assert (data.spec.classes, data.spec.sizes) == (tuple("abcd"), {"train": 20, "test": 20})
    assert "coarse_label_names, test_coarse_labels, train_coarse_labels" in caplog.text


@pytest.mark.parametrize("zipped", [False, True])
def test_pairs_of_splits_are_read(tmp_path: Path, zipped: bool) -> None:
    """As http://deeplearning.net/data/mnist/mnist.pkl.gz has them: train, validation, test."""
    x, y = np.arange(40 * 9).reshape(40, 9) / 360, np.arange(40) % 2
    content = pickle.dumps([(x, y), (x[:10], y[:10]), (x[:8], y[:8])])
    path = tmp_path / ("a.pkl.gz" if zipped else "a.pkl")
    path.write_bytes(gzip.compress(content) if zipped else content)
    data = loader.load(DataOptions(data=str(path), seed=0, allow_pickle=True))
    assert data.spec.sizes == {"train": 40, "validation": 10, "test": 8}


def test_a_dictionary_of_arrays_is_read_by_its_names(tmp_path: Path) -> None:
    content = {"data": np.eye(30), "target": np.arange(30) % 3, "DESCR": "x"}
    content |= {"target_names": ["a", "b", "c"], "feature_names": [str(n) for n in range(30)]}
    (tmp_path / "bunch.pkl").write_bytes(pickle.dumps(content))
    path = str(tmp_path / "bunch.pkl")
    data = loader.load(DataOptions(data=path, seed=0, allow_pickle=True))
    assert (data.spec.shape, data.spec.classes) == ((30,), ("a", "b", "c"))


class _Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self._reduced


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([_Call(os.system, "touch pwned")], r"found (posix|nt)\.system in a pickle"),
        ([_Call(eval, "1")], r"found (__builtin__|builtins)\.eval in a pickle"),
        ([_Call(getattr, 1, "real")], "getattr in a pickle"),
        ([_Call(codecs.encode, "x", "rot13")], "found the codec rot13"),
        ([_Call(np.load, "x")], r"found numpy\.load in a pickle|npyio.*load in a pickle"),
        ([1, 2, 3], "order of the arrays does not tell what they are"),
        (1, "found int, expected"),
        ({"x": 1}, "found no training examples with labels. Found the arrays none"),
        ({"x": np.eye(3)}, "found no labels for the examples x"),
        ([np.array([None]), *arrays()[1:]], "array of Python objects"),
        ([[[1, 2], [3]], *arrays()[1:]], "inhomogeneous"),
        (["a", "b", "c", "d"], "expected"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_of_anything_but_arrays_is_refused(
    tmp_path: Path, content: Any, message: str, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set.pickle").write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(DataError, match=message):
        loader.load(DataOptions(data="set.pickle", seed=0, allow_pickle=True))
    assert [path.name for path in tmp_path.iterdir()] == ["set.pickle"]


def test_the_error_names_a_damaged_pickle(tmp_path: Path) -> None:
    path = tmp_path / "set.pickle"
    path.write_bytes(PYTHON_2_PICKLE.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"set\.pickle: damaged pickle"):
        loader.load(DataOptions(data=str(path), seed=0, allow_pickle=True))
