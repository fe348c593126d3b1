"""A run is the same on one device and on several: order, random values, losses, weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.distributed.several_devices import BATCH, CHECKPOINT, DEVICES, EPOCHS
from tests.shared_folders import SharedFolders
from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Array
from trainer.engine.loop import batches

pytestmark = pytest.mark.long

Runs = dict[str, Array]

PAIRS = [("1", "4"), ("1, shards", "4, shards")]


@pytest.fixture(scope="module")
def runs(shared: SharedFolders, digits: Path, sharded_digits: Path) -> Runs:
    def make(folder: Path) -> None:
        folder.mkdir()
        command = [sys.executable, "-m", "tests.distributed.several_devices"]
        process = subprocess.run(
            [*command, str(digits), str(sharded_digits), str(folder / "runs.npz")],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr

    with np.load(shared.get("devices", make) / "runs.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize(("one", "several"), [*PAIRS, ("1, frozen", "4, frozen")])
def test_several_devices_give_the_losses_of_one(runs: Runs, one: str, several: str) -> None:
    np.testing.assert_allclose(runs[f"{several}: metrics"], runs[f"{one}: metrics"], rtol=1e-6)


@pytest.mark.parametrize(("one", "several"), PAIRS)
def test_each_device_has_its_slice_of_the_batches_of_one(
    runs: Runs, one: str, several: str
) -> None:
    """A batch is filled up to a multiple of the devices after its examples."""
    examples, expected = runs[f"{several}: examples"], runs[f"{one}: examples"]
    assert examples.shape[:2] == (11 * EPOCHS, 96)
    np.testing.assert_array_equal(examples[:, :BATCH], expected)


def test_the_batches_of_one_device_have_the_order_of_the_data(runs: Runs, digits: Path) -> None:
    train = loader.load(DataOptions(data=str(digits), seed=0)).train
    indices = np.concatenate([batches(train.order(0, epoch), BATCH, 1) for epoch in range(EPOCHS)])
    np.testing.assert_array_equal(
        runs["1: examples"], train.examples[np.maximum(indices, ~indices)]
    )


@pytest.mark.parametrize(("one", "several"), PAIRS)
def test_an_example_has_the_same_random_values_on_any_device(
    runs: Runs, one: str, several: str
) -> None:
    values = runs[f"{several}: values"][:, :BATCH]
    np.testing.assert_array_equal(values, runs[f"{one}: values"])
    assert len(np.unique(values)) > 0.99 * values.size


@pytest.mark.parametrize("name", ["4", "1 to 4", "4, shards", "4, frozen"])
def test_all_devices_end_with_equal_weights(runs: Runs, name: str) -> None:
    for number in range(4):
        copies = runs[f"{name}: weight {number}"]
        assert len(copies) == DEVICES
        assert (copies == copies[0]).all()


@pytest.mark.parametrize(("one", "several"), PAIRS)
def test_predictions_are_bit_identical(runs: Runs, one: str, several: str) -> None:
    probabilities = runs[f"{several}: probabilities"]
    assert probabilities.shape == (300, 10)
    np.testing.assert_array_equal(probabilities, runs[f"{one}: probabilities"])


@pytest.mark.parametrize(("name", "whole"), [("1 to 4", "1"), ("4 to 1", "4")])
def test_a_run_resumes_on_another_number_of_devices(runs: Runs, name: str, whole: str) -> None:
    np.testing.assert_allclose(runs[f"{name}: metrics"], runs[f"{whole}: metrics"], rtol=1e-6)
    first = 11 * CHECKPOINT[0] + CHECKPOINT[1]
    examples = runs[f"{name}: examples"][:, :BATCH]
    np.testing.assert_array_equal(examples, runs[f"{whole}: examples"][first:, :BATCH])


def test_a_run_resumed_on_as_many_devices_is_bit_identical(runs: Runs) -> None:
    np.testing.assert_array_equal(runs["4 to 4: metrics"], runs["4: metrics"])
    for number in range(4):
        name = f"weight {number}"
        np.testing.assert_array_equal(runs[f"4 to 4: {name}"], runs[f"4: {name}"])


def test_dropout_has_the_same_mask_on_each_device(runs: Runs) -> None:
    dropped = runs["dropped"]
    assert 0 < (dropped == 0).sum() < dropped.size
    assert (dropped == dropped[0]).all()


def test_batch_norm_statistics_are_per_device_and_averages_of_the_first_are_saved(
    runs: Runs,
) -> None:
    np.testing.assert_allclose(runs["normalized"].mean(axis=1), 0, atol=1e-6)
    assert len(np.unique(runs["averages"], axis=0)) == len(runs["averages"])
    np.testing.assert_array_equal(runs["saved"], runs["averages"][0])
