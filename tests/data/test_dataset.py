"""Tests of data sets: splits, folds, order of examples, fingerprints and leaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainer import storage
from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Dataset, RawSplits
from trainer.errors import DataError, StorageError


def unsplit(sizes: tuple[int, ...] = (500, 300, 200)) -> RawSplits:
    """Returns unsplit vectors of one value each: 1000 plus their row number."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return RawSplits(train=(np.arange(len(labels))[:, np.newaxis] + 1000, labels))


def test_the_order_is_a_permutation_that_depends_on_seed_and_epoch_only(mnist: Dataset) -> None:
    order = mnist.train.order(1, 2)
    assert sorted(order) == list(range(60000))
    assert (order == mnist.train.order(1, 2)).all()
    assert not (order == mnist.train.order(1, 3)).all()
    assert not (order == mnist.train.order(2, 2)).all()


def test_the_order_is_the_same_on_every_machine(mnist: Dataset) -> None:
    """A run can therefore resume on another machine."""
    assert mnist.train.order(0, 0)[:5].tolist() == [49806, 25494, 16864, 40736, 6833]


def test_held_out_splits_are_stratified_and_disjoint() -> None:
    data = Dataset.split(unsplit(), seed=0, validation_split=0.2)
    assert data.validation is not None
    assert np.bincount(data.test.labels).tolist() == [50, 30, 20]
    assert np.bincount(data.validation.labels).tolist() == [90, 54, 36]
    assert np.bincount(data.train.labels).tolist() == [360, 216, 144]
    values = [split.examples[:, 0] for split in (data.train, data.validation, data.test)]
    assert sorted(np.concatenate(values)) == list(range(1000, 2000))


def test_the_seed_decides_which_examples_are_held_out() -> None:
    first, again, other = (
        Dataset.split(unsplit(), seed=n, validation_split=0.1) for n in (1, 1, 2)
    )
    assert first.fingerprint == again.fingerprint
    assert set(first.test.examples[:, 0]) != set(other.test.examples[:, 0])


def test_the_same_examples_are_held_out_on_every_machine() -> None:
    data = Dataset.split(unsplit(), seed=0, validation_split=0.2)
    assert data.validation is not None
    assert data.test.examples[:5, 0].tolist() == [1035, 1043, 1046, 1049, 1053]
    assert data.validation.examples[:5, 0].tolist() == [1005, 1020, 1022, 1025, 1027]


def test_a_validation_split_does_not_change_the_test_split() -> None:
    without = Dataset.split(unsplit(), seed=0, validation_split=0)
    held_out = Dataset.split(unsplit(), seed=0, validation_split=0.5)
    assert (without.test.examples == held_out.test.examples).all()


def test_folds_are_disjoint_cover_all_examples_and_are_stratified() -> None:
    folds = [
        Dataset.split(unsplit((53, 31, 19)), seed=0, validation_split=0.1, fold=(number, 10))
        for number in range(1, 11)
    ]
    tested = np.concatenate([fold.test.examples[:, 0] for fold in folds])
    assert sorted(tested) == list(range(1000, 1103))
    assert {len(fold.test) for fold in folds} == {10, 11}
    counts = np.array([np.bincount(fold.test.labels) for fold in folds])
    assert (counts.max(axis=0) - counts.min(axis=0) <= 1).all()
    for fold in folds:
        assert fold.validation is not None
        others = {*fold.train.examples[:, 0], *fold.validation.examples[:, 0]}
        assert others == set(range(1000, 1103)) - set(fold.test.examples[:, 0])


def test_folds_leave_out_the_test_split_of_the_data() -> None:
    raw = RawSplits(train=unsplit().train, test=(np.full((9, 1), 5000), np.zeros(9, int)))
    folds = [Dataset.split(raw, seed=0, validation_split=0, fold=(n, 2)) for n in (1, 2)]
    tested = np.concatenate([fold.test.examples[:, 0] for fold in folds])
    assert sorted(tested) == list(range(1000, 2000))


def test_the_seed_decides_the_folds() -> None:
    first, again, other = (
        Dataset.split(unsplit(), seed=n, validation_split=0, fold=(1, 5)) for n in (1, 1, 2)
    )
    assert first.fingerprint == again.fingerprint
    assert set(first.test.examples[:, 0]) != set(other.test.examples[:, 0])


def test_the_error_names_a_class_too_small_for_the_folds() -> None:
    with pytest.raises(DataError, match="class '1' has 3 examples, expected 4 or more"):
        Dataset.split(unsplit((9, 3)), seed=0, validation_split=0, fold=(1, 4))


def test_the_error_names_a_class_too_small_to_split() -> None:
    with pytest.raises(DataError, match="class '1' has 1 example, too few"):
        Dataset.split(unsplit((10, 1)), seed=0, validation_split=0)


def test_balanced_weights_give_each_class_the_same_total_weight() -> None:
    data = Dataset.split(unsplit((500, 300, 20)), seed=0, validation_split=0.0)
    weights = data.class_weights("balanced")
    np.testing.assert_allclose(weights * data.class_counts(), len(data.train) / 3, rtol=1e-6)


@pytest.mark.parametrize("texts", [False, True])
def test_test_examples_that_are_also_in_the_training_split_are_counted(texts: bool) -> None:
    examples = np.arange(60).reshape(20, 3)
    if texts:
        examples = np.array([f"text {row}" for row in examples], object)
    labels = np.arange(20) % 2
    test = np.concatenate([examples[[3, 3, 7]], examples[:2]]), labels[:5]
    twice = np.concatenate([examples, examples[:4]]), np.concatenate([labels, labels[:4]])
    alone = examples[8:], labels[8:]
    data = Dataset.split(
        RawSplits(twice, test=test, validation=alone), seed=0, validation_split=0.0
    )
    assert data.leaked == {"validation": 12, "test": 5}
    data = Dataset.split(RawSplits(alone, test=test), seed=0, validation_split=0.0)
    assert data.leaked == {"test": 0}


def test_the_fingerprint_depends_on_every_value() -> None:
    changed = unsplit()
    changed.train[0][7] += 1
    first = Dataset.split(unsplit(), seed=0, validation_split=0)
    assert first.fingerprint != Dataset.split(changed, seed=0, validation_split=0).fingerprint


def test_the_error_for_unknown_data_says_what_is_read(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no known format, found no files\. Expected .*; docs/data\.md desc"
    ):
        loader.load(DataOptions(data=str(tmp_path), seed=0))
    (tmp_path / "notes.md").write_text("hello")
    with pytest.raises(DataError, match=r"found notes\.md\. Expected one folder per class"):
        loader.load(DataOptions(data=str(tmp_path / "notes.md"), seed=0))


def test_the_error_names_a_missing_path() -> None:
    with pytest.raises(StorageError, match="/no/such/data: no such file or folder"):
        loader.load(DataOptions(data="/no/such/data", seed=0))


def test_data_is_read_from_a_bucket(bucket: str, digits: Path) -> None:
    files = {f"digits/{path.name}": path for path in digits.iterdir()}
    storage.write_all(storage.folder(bucket), files)
    remote = loader.load(DataOptions(data=f"{bucket}/digits", seed=0))
    assert remote.fingerprint == loader.load(DataOptions(data=str(digits), seed=0)).fingerprint
