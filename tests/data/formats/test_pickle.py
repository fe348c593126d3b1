"""Tests of pickles: refused by default, or read by an unpickler that accepts arrays only."""

from __future__ import annotations

import codecs
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
        ([1, 2, 3], "found list, expected"),
        ({"x": 1}, "found dict, expected"),
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
