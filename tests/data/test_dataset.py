"""Splits, their order, and what is known of a data set as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Dataset, RawSplits
from trainer.errors import DataError, StorageError


def source(sizes: tuple[int, ...] = (500, 300, 200)) -> RawSplits:
    """Vectors that hold their own number, in one piece."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return RawSplits(train=(np.arange(len(labels))[:, np.newaxis] + 1000, labels))


def test_an_order_is_a_permutation_and_a_function_of_seed_and_epoch(mnist: Dataset) -> None:
    order = mnist.train.order(1, 2)
    assert sorted(order) == list(range(60000))
    assert (order == mnist.train.order(1, 2)).all()
    assert not (order == mnist.train.order(1, 3)).all()
    assert not (order == mnist.train.order(2, 2)).all()


def test_an_order_is_the_same_on_every_machine(mnist: Dataset) -> None:
    """Else a run could not be resumed on another machine."""
    assert mnist.train.order(0, 0)[:5].tolist() == [49806, 25494, 16864, 40736, 6833]


def test_held_out_parts_are_stratified_and_disjoint() -> None:
    data = Dataset.split(source(), seed=0, validation=0.2)
    assert data.validation is not None
    assert np.bincount(data.test.labels).tolist() == [50, 30, 20]
    assert np.bincount(data.validation.labels).tolist() == [90, 54, 36]
    assert np.bincount(data.train.labels).tolist() == [360, 216, 144]
    numbers = [part.examples[:, 0] for part in (data.train, data.validation, data.test)]
    assert sorted(np.concatenate(numbers)) == list(range(1000, 2000))


def test_the_seed_decides_what_is_held_out() -> None:
    first, again, other = (Dataset.split(source(), seed=n, validation=0.1) for n in (1, 1, 2))
    assert first.fingerprint == again.fingerprint
    assert set(first.test.examples[:, 0]) != set(other.test.examples[:, 0])


def test_the_same_is_held_out_on_every_machine() -> None:
    data = Dataset.split(source(), seed=0, validation=0.2)
    assert data.validation is not None
    assert data.test.examples[:5, 0].tolist() == [1035, 1043, 1046, 1049, 1053]
    assert data.validation.examples[:5, 0].tolist() == [1005, 1020, 1022, 1025, 1027]


def test_validation_does_not_touch_the_test_part() -> None:
    without = Dataset.split(source(), seed=0, validation=0)
    held_out = Dataset.split(source(), seed=0, validation=0.5)
    assert (without.test.examples == held_out.test.examples).all()


def test_folds_share_out_every_class() -> None:
    parts = [
        Dataset.split(source((53, 31, 19)), seed=0, validation=0.1, fold=(number, 10))
        for number in range(1, 11)
    ]
    tested = np.concatenate([part.test.examples[:, 0] for part in parts])
    assert sorted(tested) == list(range(1000, 1103))
    assert {len(part.test) for part in parts} == {10, 11}
    counts = np.array([np.bincount(part.test.labels) for part in parts])
    assert (counts.max(axis=0) - counts.min(axis=0) <= 1).all()
    for part in parts:
        assert part.validation is not None
        seen = {*part.train.examples[:, 0], *part.validation.examples[:, 0]}
        assert seen == set(range(1000, 1103)) - set(part.test.examples[:, 0])


def test_folds_leave_out_a_test_part_that_came_apart() -> None:
    apart = RawSplits(train=source().train, test=(np.full((9, 1), 5000), np.zeros(9, int)))
    folds = [Dataset.split(apart, seed=0, validation=0, fold=(n, 2)) for n in (1, 2)]
    tested = np.concatenate([fold.test.examples[:, 0] for fold in folds])
    assert sorted(tested) == list(range(1000, 2000))


def test_the_seed_decides_the_folds() -> None:
    first, again, other = (
        Dataset.split(source(), seed=n, validation=0, fold=(1, 5)) for n in (1, 1, 2)
    )
    assert first.fingerprint == again.fingerprint
    assert set(first.test.examples[:, 0]) != set(other.test.examples[:, 0])


def test_a_class_too_small_for_the_folds_is_named() -> None:
    with pytest.raises(DataError, match="class '1' has 3 examples, expected 4 or more"):
        Dataset.split(source((9, 3)), seed=0, validation=0, fold=(1, 4))


def test_a_class_too_small_to_split_is_named() -> None:
    with pytest.raises(DataError, match="class '1' has 1 example, too few"):
        Dataset.split(source((10, 1)), seed=0, validation=0)


def test_balanced_weights_make_each_class_count_as_much() -> None:
    data = Dataset.split(source((500, 300, 20)), seed=0, validation=0.0)
    weights = data.weights("balanced")
    np.testing.assert_allclose(weights * data.class_counts(), len(data.train) / 3, rtol=1e-6)


@pytest.mark.parametrize("texts", [False, True])
def test_examples_that_are_in_the_training_part_too_are_counted(texts: bool) -> None:
    examples = np.arange(60).reshape(20, 3)
    if texts:
        examples = np.array([f"text {row}" for row in examples], object)
    labels = np.arange(20) % 2
    test = np.concatenate([examples[[3, 3, 7]], examples[:2]]), labels[:5]
    twice = np.concatenate([examples, examples[:4]]), np.concatenate([labels, labels[:4]])
    alone = examples[8:], labels[8:]
    data = Dataset.split(RawSplits(twice, test=test, validation=alone), seed=0, validation=0.0)
    assert data.leaked == {"validation": 12, "test": 5}
    data = Dataset.split(RawSplits(alone, test=test), seed=0, validation=0.0)
    assert data.leaked == {"test": 0}


def test_the_fingerprint_sees_every_value() -> None:
    changed = source()
    changed.train[0][7] += 1
    first = Dataset.split(source(), seed=0, validation=0)
    assert first.fingerprint != Dataset.split(changed, seed=0, validation=0).fingerprint


def test_what_is_no_data_set_is_told_the_formats(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no known format, found no files\. Expected .*IDX"):
        loader.load(DataOptions(data=str(tmp_path), seed=0))
    (tmp_path / "notes.md").write_text("hello")
    with pytest.raises(DataError, match=r"found notes\.md"):
        loader.load(DataOptions(data=str(tmp_path / "notes.md"), seed=0))


def test_a_missing_path_is_named() -> None:
    with pytest.raises(StorageError, match="/no/such/data: no such file or folder"):
        loader.load(DataOptions(data="/no/such/data", seed=0))


def test_data_is_read_from_a_bucket(bucket: str, digits: Path) -> None:
    from trainer import storage

    files = {f"digits/{path.name}": path for path in digits.iterdir()}
    storage.write_all(storage.folder(bucket), files)
    remote = loader.load(DataOptions(data=f"{bucket}/digits", seed=0))
    assert remote.fingerprint == loader.load(DataOptions(data=str(digits), seed=0)).fingerprint
